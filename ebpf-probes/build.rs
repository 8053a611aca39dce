//! Tells bpf-linker to keep the type information: with it the verifier quotes the source line that it
//! refuses.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("bpf") {
        println!("cargo::rustc-link-arg-bins=--btf");
    }
}
