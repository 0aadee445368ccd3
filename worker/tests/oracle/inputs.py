"""What the oracle is asked: chat prompts, completion prompts and strings to tokenise.

Invisible characters are written as escapes, so that no editor can change them unseen.
"""

HARBOUR = """\
The harbour at Tennick was built in 1841, when the slate quarries in the hills behind the town \
were busy enough to need forty ships a week. Its first wall was of timber and rubble, and it \
lasted nine winters. The second was of dressed granite, brought by rail from sixty miles away, \
and most of it still stands. At the seaward end there is a small iron light, painted white every \
third spring, which can be seen from eleven miles out on a clear night. The keeper's house has \
been empty since 1972, when the lamp was made automatic, but the town still owns it and lets it \
to painters in the summer.

Slate left the harbour until 1913. After the first war the orders went to cheaper tiles, and the \
quay was given over to herring. For some twenty years the boats came in so close together that a \
child could cross the basin from deck to deck without wetting a shoe. Then the herring went too, \
further north each year, and by 1950 only four boats were left. Today there are nine: six take \
crab and lobster for the city's restaurants, two carry visitors to the seal rocks, and one, the \
Margaret Ann, belongs to the university, which studies the cold current that bends around the \
point. A storm in the winter of 2014 tore a hole of twelve metres in the old granite wall, and \
the repair, paid for half by the county and half by a public collection, took almost two years."""

CLOCK = """\
A mechanical clock needs three things: a store of energy, a train of wheels that lets the energy \
out, and an escapement that decides how fast. In a tower clock the store is a weight on a rope. \
Winding the clock lifts the weight; gravity then pulls it down over a day or a week, and the rope \
turns a drum. The drum turns the great wheel, the great wheel turns a smaller one much faster, \
and so on, until the last wheel of the train would spin like a top if nothing held it back.

What holds it back is the escapement. A pair of pallets rocks to and fro with the pendulum, and \
with each swing it frees one tooth of the last wheel and catches the next. That is the tick, and \
the tock is the other pallet. At every release the wheel gives the pendulum a tiny push, just \
enough to replace what friction and the air have taken from it. The length of the pendulum sets \
the beat: a metre, near enough, for one second. On a warm day the rod grows longer and the clock \
loses a little, so good makers used rods of two metals, or a jar of mercury for a bob, in which \
the heat raises the middle of the mass as much as it lowers the end.

The dial is almost an afterthought. One wheel is made to turn once an hour and carries the minute \
hand; a pair of reducing gears, one to twelve, carries the hour hand around the same centre. A \
second train, with a weight of its own, does the striking. It waits, locked, until a pin on the \
hour wheel lifts a lever; then it runs, and a notched plate counts the blows of the hammer."""


def user(text):
    return [{"role": "user", "content": text}]


# Asked of a chat model, each through the model's own chat template.
CHATS = [
    user("What is the capital of France?"),
    user("Name the four largest planets of the solar system, in order of size."),
    user("Who wrote the play Hamlet, and about when was it first performed?"),
    user("Why is the sky blue? Answer in two sentences."),
    user("Write a Python function that returns the n-th Fibonacci number without recursion."),
    user("Fix this Rust code:\n\n```rust\nfn main() {\n    let v = vec![1, 2, 3];\n"
         "    let w = v;\n    println!(\"{:?}\", v);\n}\n```"),
    user("Write an SQL query that lists the ten customers with the highest total of orders."),
    user("Tell me a short story about a lighthouse keeper who finds a letter in a bottle."),
    user("Continue this story: The train stopped between two stations, and nobody knew why."),
    user("Make a shopping list for a vegetable soup for six people."),
    user("- apples\n- pears\n- \n\nFill in the missing item, and add three more."),
    user("What is 17 + 26?"),
    user("A shop sells pens at 3 for 2 euros. How much do 12 pens cost? Show your steps."),
    user("¿Cuáles son los meses del año en español?"),
    user("Erkläre in einem Satz, was ein Kühlschrank macht."),
    user("用中文介绍一下长城。"),
    user("What does this emoji mean: 👩\u200d🚀? And this one: 🎉"),
    user("Sum up the following text in three sentences.\n\n" + HARBOUR),
    [
        {"role": "system", "content": "You answer as briefly as you can."},
        {"role": "user", "content": "How many legs has a spider?"},
        {"role": "assistant", "content": "Eight."},
        {"role": "user", "content": "And an ant?"},
    ],
    [
        {"role": "user", "content": "My name is Ada and I like chess."},
        {"role": "assistant", "content": "Nice to meet you, Ada! Chess is a great game."},
        {"role": "user", "content": "What is my name, and what do I like?"},
    ],
]

# Continued by a base model. The last one is longer than Gemma 3's sliding window of 512 tokens.
COMPLETIONS = [
    "The capital of France is",
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n",
    HARBOUR + "\n\n" + CLOCK + "\n\nIn short, the two texts above are about",
]

PYTHON = '''def main(argv=None):
\tfor i, x in enumerate(range(10)):
        print(f"{i:>3}: {x ** 2!r}")  # squares
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
'''

RUST = '''impl<'a, T: Iterator<Item = &'a str> + ?Sized> Source for Box<T> {
    fn next(&mut self) -> Option<Cow<'a, [u8]>> {
        (**self).next().map(|s| s.as_bytes().into())
    }
}
'''

C = '''#include <stdio.h>
#define MAX(a, b) ((a) > (b) ? (a) : (b))
int main(void) {
\tunsigned long long n = 0xDEADBEEFull << 3;
\tprintf("%llu\\n", n &~ 0x7f);\treturn 0; /* done */
}
'''

STRINGS = [
    # Next to nothing.
    "", " ", "  ", "\n", "\t", "\r\n", "a", ".", "0", "\u200b", "\u00a0", "\ufeff",
    # Plain English, case, and contractions.
    "Hello, world!",
    "hello world",
    "HELLO WORLD",
    "The quick brown fox jumps over the lazy dog.",
    "It's John's; they're ours, aren't they? I'd've said we'll see, I'm sure you've won.",
    "IT'S JOHN'S; THEY'RE OURS, AREN'T THEY? I'D'VE SAID WE'LL SEE.",
    "It\u2019s John\u2019s; they\u2019re ours, aren\u2019t they?",
    "'twas rock 'n' roll, y'all'd've loved it o'clock",
    "'s 't 're 've 'm 'll 'd 'S 'T 'RE 'x",
    "camelCaseIdentifier snake_case_identifier SCREAMING_SNAKE kebab-case-name PascalCase",
    "iPhone eBay McDonald's LaTeX GitHub OpenAI NASA's",
    "Wait... what?! No -- really? (Yes; truly.) [sic] {ok} <end>",
    "\"quoted\" 'single' `back` \u201ccurly\u201d \u00abguillemets\u00bb \u201elow\u201c",
    "em\u2014dash en\u2013dash hyphen-ated minus\u2212sign ellipsis\u2026",
    # Long words.
    "Pneumonoultramicroscopicsilicovolcanoconiosis",
    "Donaudampfschifffahrtselektrizit\u00e4tenhauptbetriebswerkbauunterbeamtengesellschaft",
    "antidisestablishmentarianism floccinaucinihilipilification",
    "Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch",
    "a" * 100,
    "ab" * 60,
    "xqzjvkwpfbgh" * 6,
    "Aaaaaaaaaaaaargh! Nooooooooooo! Hahahahahahahaha!!!!!!!!!!!!",
    # Leading and trailing white space.
    " hello", "hello ", " hello ", "  hello", "hello  ", "   hello   ", "\thello", "hello\t",
    "\nhello", "hello\n", "\n\nhello\n\n", " \n hello \n ", "a b  c   d    e     f      g",
    "one\ntwo\n\nthree\n\n\nfour\n\n\n\nfive", "a\tb\t\tc\t\t\td", "line\r\nline\r\n\r\nline\rline",
    # Runs of white space alone.
    "   ", "    ", " " * 7, " " * 8, " " * 17, " " * 31, " " * 40, "\n\n", "\n\n\n", "\n" * 10,
    "\n" * 40, "\t\t", "\t\t\t\t", " \n", "\n ", " \t \t ", "\n\t\n\t", "  \n  \n  ", "\r",
    "\r\r\n\n",
    " \u3000 ", "\u2003\u2009\u202f", "\u2028\u2029", "\x0b\x0c", "\u00a0\u00a0 \u00a0",
    # Digits.
    "7", "42", "123", "1234", "12345", "1234567890", "31415926535897932384626433832795",
    "000", "007", "1,234,567.89", "3.14159", "-273.15", "6.022e23",
    "1/2 3\u20444 \u00bd \u00b2\u00b3",
    "0x1F 0b1010 0o777", "2024-02-29T23:59:59.999Z", "12:30", "+1 (555) 010-9999", "v1.2.3-rc.4",
    "192.168.0.1/24 fe80::1%eth0", "10 20 30  40", "a1b2c3 4d5e6f x86_64 utf8 H2O",
    "$9.99 \u20ac5 \u00a33 \u00a51000 50%",
    "\u0661\u0662\u0663\u0664\u0665", "\u0967\u0968\u0969", "\uff11\uff12\uff13",
    "\u2460\u2461 \u2163 \u216b",
    # Code.
    PYTHON,
    RUST,
    C,
    "const f = async (x) => { await g(`${x}?.y ?? ${z}`); return x !== y && !z; };",
    "SELECT a.id, COUNT(*) FROM t AS a LEFT JOIN u ON a.id = u.id WHERE u.n >= 10 GROUP BY 1;",
    "<div class=\"a b\" id='c'><p>Hi &amp; bye</p><br/></div>",
    "<table><tr><td>1</td></tr></table><h1>x</h1><ul><li>y</li></ul>",
    "{\"a\": [1, 2.5, null, true], \"b\": {\"c\": \"\\u00e9\\n\"}}",
    "#!/bin/sh\nset -eu\nfor f in *.txt; do\n\tgrep -nE '^[a-z]+$' \"$f\" | wc -l\ndone\n",
    "package main\n\nimport \"fmt\"\n\nfunc main() {\n\tfmt.Println(\"hi\")\n}\n",
    "public static void main(String[] args) { System.out.println(\"x\" + args.length); }",
    "template <typename T> auto f(T&& t) -> decltype(std::forward<T>(t)) { return t->*p; }",
    "main :: IO ()\nmain = mapM_ print $ filter even [x | x <- [1 ..], x `mod` 3 == 0]",
    "\\begin{align} \\frac{a}{b} &= \\sum_{i=0}^{n} x_i^2 \\\\ \\end{align}",
    "key: value\nlist:\n  - one\n  - two: {a: 1}\n# comment\n",
    "# Title\n\n* **bold** and _it_\n* [link](x.md)\n\n```js\nlet a = 1\n```\n\n---\n",
    "^(?:[a-z0-9!#$%&'*+/=?^_`{|}~-]+)@(\\w+\\.)+\\w{2,}$",
    "MOV EAX, [EBX+4*ECX-0x10] ; load\nJNZ .loop",
    "diff --git a/x b/x\n@@ -1,2 +1,2 @@\n-old\n+new\n",
    "if(a==b){c+=d;}else{e--;}//x\n\n\n}\n}\n",
    "        deep\n            deeper\n\t\t\ttabs\n    \tmixed\n",
    # Punctuation runs.
    "!!!", "???!!!", "......", "-----", "=====", "*****", "~~~~", "####", "____", "//////",
    "!@#$%^&*()_+-=[]{}|;':\",./<>?`~", "->=>::<-<=>=!=", "a.b.c;d:e,f", "()[]{}<>", "\\n\\t\\\\",
    # Addresses.
    "https://www.example.com/path/to/page.html?q=one+two&lang=en#top",
    "mailto:someone.else+tag@mail.example.org",
    "C:\\Users\\name\\Documents\\file (1).txt",
    "/usr/local/lib/python3.11/site-packages/__init__.py",
    # Europe.
    "\u00c7a va? O\u00f9 est le c\u0153ur na\u00eff de l'\u00e9t\u00e9?",
    "Stra\u00dfe, \u00c4pfel, \u00d6l, \u00dcbung \u2014 gr\u00f6\u00dfer als 10\u00a0\u20ac.",
    "El ni\u00f1o pregunt\u00f3: \u00bfqu\u00e9 pas\u00f3? \u00a1Nada!",
   
    "Příliš žluťoučký kůň úpěl ďábelské ódy",
    "Zażółć gęślą jaźń", "İstanbul'da ılık bir gün", "Tiếng Việt có nhiều dấu thanh",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Ξεσκεπάζω τὴν ψυχοφθόρα βδελυγμία",
    "Þórður ætlar að fara", "Հայերեն այբուբեն", "ქართული ენა",
    # Africa and Asia.
    "你好，世界！今天天气怎么样？", "繁體中文測試：龍、鳳、龜", "人工智能GPT模型2024年发布", "𠮷野家で𩸽を食べる",
    "日本語のテキスト。カタカナ、ひらがな、漢字。", "ﾊﾝｶｸ ｶﾀｶﾅ Ｆｕｌｌｗｉｄｔｈ", "안녕하세요, 세계! 한국어 문장입니다.",
    "\u1112\u1161\u11ab\u1100\u1173\u11af",
    "مرحبا بالعالم، كيف حالك؟", "بِسْمِ ٱللَّهِ", "שלום עולם! מה שלומך?", "فارسی می\u200cخواهم",
    "नमस्ते दुनिया, आप कैसे हैं?", "क्ष त्र ज्ञ श्री", "বাংলা ভাষা", "தமிழ் மொழி", "తెలుగు",
    "สวัสดีชาวโลก วันนี้อากาศดี", "ภาษาไทยไม่มีช่องว่างระหว่างคำ", "ພາສາລາວ", "မြန်မာဘာသာ",
    "ភាសាខ្មែរ",
    "አማርኛ ቋንቋ", "བོད་སྐད།", "Монгол хэл ᠮᠣᠩᠭᠣᠯ",
    # Emoji: skin tones, joined sequences, flags, key caps, and variation selectors.
    "😀", "😀😃😄", "I ❤\ufe0f Rust \u2764 \u2764\ufe0e", "👍🏽 👋🏿", "👨\u200d👩\u200d👧\u200d👦 family",
    "👩\u200d🚀🏳\ufe0f\u200d🌈",
    "🇫🇷🇩🇪🇯🇵🇧🇷", "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "1\ufe0f\u20e3 #\ufe0f\u20e3", "go🚀now 🎉!", "🫠🪿🫨",
    # Combining marks, unusual letters, and the edges of Unicode.
    "e\u0301 a\u0308 n\u0303 o\u0302\u0323", "Z\u0351\u036b\u0343a\u0321\u034ald\u0315go\u0358",
    "\u0301start", "\ufb01 \ufb02 \u00c5 \u212b \u03a9 \u2126",
    "𝓗𝓮𝓵𝓵𝓸 𝔘𝔫𝔦 𝟙𝟚𝟛", "H₂O x² ∑∫√∞ ≠ ≤ ⇒ ∀x∈ℝ", "┌─┬─┐│█▓▒░", "\u202eright to left\u202c",
    "soft\u00adhyphen zero\u200bwidth\u2060join",
    "\ufffd\ufffe\uffff", "\ue000\uf8ff \U0010fffd", "𐍈𐎠𓀀𒀀",
    # Control characters.
    "\x01\x02\x03", "a\x07b\x08c\x1bd", "\x1b[31mred\x1b[0m", "\x7f\x80\x9f", "a\x00b",
    # Mixed scripts.
    "Hello мир 世界 שלום 🌍 नमस्ते 42", "aбвγδ中文ab", "日本語English混在123テスト", "C++とRust、どっちが好き？",
    "x=π*r², где r≈2,5м",
    # Text that looks like special tokens.
    "<|im_start|>user\nhi<|im_end|>\n", "<|endoftext|>", " <|im_end|> ", "<bos><eos><pad><unk>",
    "<start_of_turn>model\nhi<end_of_turn>", "<s>[INST] hi [/INST]</s>", "<0x0A><0x41>",
    "<unused0><unused99>",
    "<mask>[multimodal]", "<file_sep><repo_name><jupyter_code>", "\u2581the\u2581\u2581cat \u2581",
    "\u0120the \u010a \u0109",
]
