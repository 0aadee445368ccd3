"""Texts that embeddings are compared on: many lengths, languages and signs."""

SENTENCES = [
    "The cat sat on the mat.", "A quick brown fox jumps over the lazy dog.", "Interest rates rose again in October.",
    "Der Zug nach Utrecht fährt heute von Gleis sieben.", "Le vent se lève, il faut tenter de vivre.",
    "¿Dónde está la biblioteca más cercana?", "Быстрая лиса прыгает через ленивую собаку.",
    "今天的天气很好，我们去公园散步吧。", "東京の桜は三月の終わりに咲き始めます。", "오늘은 날씨가 정말 좋네요.",
    "الكتاب على الطاولة بجانب النافذة.", "הספר נמצא על השולחן.", "मुझे हिन्दी में लिखना पसंद है।",
    "Το νερό βράζει στους εκατό βαθμούς.", "Árvíztűrő tükörfúrógép.", "Đường phố Hà Nội rất đông người.",
    "🚀🚀🚀 to the moon 😀", "👩‍👩‍👧 family emoji with joiners", "naïve café façade résumé", "ﬁ ligature and Ⅳ and ½",
    "fn main() { println!(\"{}\", 1 + 2); }", "SELECT name, count(*) FROM users WHERE id <> 5 GROUP BY name;",
    "https://example.org/path?query=1&other=two#fragment", "E = mc², ∑ aᵢ ≤ ∞, x ∈ ℝ", "3.14159 26535 89793 23846",
    "ALL CAPITALS SHOUT LOUDLY!", "mIxEd CaSe wOrDs", "snake_case and kebab-case and CamelCase", "tab\tand\nnewline",
    "   leading and trailing spaces   ", "...", "?!?!", "a", "I", "1", "-", "[CLS] [SEP] [MASK] [PAD] [UNK]",
    "The mitochondrion is the powerhouse of the cell.", "Photosynthesis turns light into chemical energy.",
    "She sells sea shells by the sea shore.", "How do I sort a list of dictionaries by a value?",
    "The contract may be terminated with a notice of thirty days.", "Preheat the oven to 180 °C and grease the tin.",
]


def texts():
    """200 of them, all different: each sentence alone, and runs of 2 to 24 sentences and words."""
    found = dict.fromkeys(SENTENCES)
    step = 0
    while len(found) < 200:
        step += 1
        count = 2 + step * 7 % 23
        chosen = [SENTENCES[(step * 5 + part * (1 + step % 3)) % len(SENTENCES)] for part in range(count)]
        words = " ".join(chosen).split(" ")
        # Half of them are cut within a sentence, so that all lengths occur.
        found[" ".join(words if step % 2 else words[: 1 + step * 13 % len(words)])] = None
    return list(found)
