use crate::{Error, IntScheme, Result, ScaleDtype};

/// The buffers of a quantized `[n, k]` weight, or of one row of it.
#[derive(Debug)]
pub struct Buffers<T> {
    pub codes: T,
    pub scales: T,
    /// Empty when symmetric.
    pub zero_points: T,
}

/// The bytes per row of each buffer, once `lens` are known to hold the rows that `values` weights form.
pub(crate) fn bytes_per_row(
    scheme: IntScheme,
    scale_dtype: ScaleDtype,
    values: usize,
    k: usize,
    lens: Buffers<usize>,
) -> Result<Buffers<usize>> {
    let n = match values.checked_rem(k) {
        Some(0) => values / k,
        _ => return Err(Error::RowLength { values, k }),
    };
    let per_row = Buffers {
        codes: scheme.code_bytes_per_row(k),
        scales: scheme.blocks(k).saturating_mul(scale_dtype.size()),
        zero_points: scheme.zero_point_bytes_per_row(k),
    };
    for (buffer, len, per_row) in [
        ("codes", lens.codes, per_row.codes),
        ("scales", lens.scales, per_row.scales),
        ("zero_points", lens.zero_points, per_row.zero_points),
    ] {
        let expected = n.saturating_mul(per_row);
        if len != expected {
            return Err(Error::BufferLength { buffer, len, expected });
        }
    }
    Ok(per_row)
}
