//! The files of `src/proto` are generated from `proto/*.proto`.
//! They are committed, so that a build needs neither `protoc` nor a build script.

use std::path::Path;

/// Compares what is committed with what the protos give now; `EVENTBOX_BLESS=1` writes it instead.
#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fresh = tempfile::tempdir().unwrap();
    let descriptors = protox::compile(["chip_ingress.proto", "consumer.proto"], [root.join("proto")]).unwrap();
    tonic_prost_build::configure()
        .bytes(".io.cloudevents.v1")
        .btree_map(".")
        .out_dir(fresh.path())
        .compile_fds(descriptors)
        .unwrap();

    for package in ["chipingress.pb", "chip_common", "io.cloudevents.v1", "consumer"] {
        let name = format!("{package}.rs");
        let wanted = std::fs::read_to_string(fresh.path().join(&name)).unwrap();
        let committed = root.join("src/proto").join(&name);
        if std::env::var_os("EVENTBOX_BLESS").is_some() {
            std::fs::write(&committed, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(&committed).unwrap_or_default();
        assert!(found == wanted, "{name} is stale: run EVENTBOX_BLESS=1 cargo test generated_code_is_current");
    }
}
