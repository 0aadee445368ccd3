//! Which code makes the product of a tile with a panel.

use super::layout::{Layout, TILE, with_layout};
use super::plain;
use crate::format::Format;
use crate::processor::Processor;
use crate::rows::{PANEL, Panel};

/// The weights of a tile.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a> {
    pub bytes: &'a [u8],
    pub groups: usize,
}

/// Room for what comes out: for each row of a panel the outputs of a tile.
pub(crate) type Sums = [[f32; TILE]; PANEL];

/// Makes the product of a tile and a panel, and writes it to as many rows of sums as the panel has.
///
/// # Safety
/// The processor must have the features that the function was compiled for; the weights hold the tile and the panel as
/// many blocks as the weights have groups; there is room for the sums.
pub(crate) type Product = unsafe fn(Weights<'_>, Panel<'_>, *mut [f32; TILE]);

/// The products with panels of 1, 2, 4, 8 and 16 rows.
pub(crate) type Products = [Product; 5];

/// The products for a format, unless it is one of plain numbers.
pub(crate) fn products(processor: Processor, format: Format) -> Option<Products> {
    match processor {
        Processor::Plain => with_layout!(format, plain_products),
        #[cfg(target_arch = "x86_64")]
        Processor::Avx2 => with_layout!(format, avx2_products),
        #[cfg(target_arch = "x86_64")]
        Processor::AvxVnni => with_layout!(format, avx_vnni_products),
        #[cfg(target_arch = "x86_64")]
        Processor::Avx512 => with_layout!(format, avx512_products),
        #[cfg(target_arch = "aarch64")]
        Processor::Neon => with_layout!(format, neon_products),
    }
}

fn plain_products<L: Layout>() -> Products {
    use plain::product;
    [product::<L, 1>, product::<L, 2>, product::<L, 4>, product::<L, 8>, product::<L, 16>]
}

/// Where there are 32 registers, eight rows at a time leave room for the codes of a group.
#[cfg(target_arch = "x86_64")]
fn avx512_products<L: Layout>() -> Products {
    use super::avx512::product;
    [product::<L, 1, 1>, product::<L, 2, 2>, product::<L, 4, 4>, product::<L, 8, 8>, product::<L, 16, 8>]
}

/// Where there are 16 registers, four rows at a time are as many as have their sums in one.
#[cfg(target_arch = "x86_64")]
fn avx2_products<L: Layout>() -> Products {
    use super::avx2::product;
    [product::<L, 1, 1>, product::<L, 2, 2>, product::<L, 4, 4>, product::<L, 8, 4>, product::<L, 16, 4>]
}

#[cfg(target_arch = "x86_64")]
fn avx_vnni_products<L: Layout>() -> Products {
    use super::avx2::product_vnni as product;
    [product::<L, 1, 1>, product::<L, 2, 2>, product::<L, 4, 4>, product::<L, 8, 4>, product::<L, 16, 4>]
}

#[cfg(target_arch = "aarch64")]
fn neon_products<L: Layout>() -> Products {
    use super::neon::product;
    [product::<L, 1, 1>, product::<L, 2, 2>, product::<L, 4, 4>, product::<L, 8, 8>, product::<L, 16, 8>]
}
