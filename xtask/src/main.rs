//! Development commands: `cargo xtask schemas` and, later, `test` and `bench`.
fn main() {
    for (file, schema) in schemas::published() {
        let text = serde_json::to_string_pretty(&schema).unwrap_or_default() + "\n";
        let _ = std::fs::write(std::path::Path::new("schemas/published").join(file), text);
    }
}
