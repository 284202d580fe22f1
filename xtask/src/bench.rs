//! Benchmarks: ratios within one run, never tests. Filled by its own change.

pub(crate) fn bench(_names: &[String]) -> Result<(), String> {
    Err("no benchmark yet".to_owned())
}
