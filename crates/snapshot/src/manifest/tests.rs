use super::*;
use proptest::prelude::*;

pub(crate) fn example() -> Manifest {
    let component = |version: &str| Component::new(version, Digest::of(version.as_bytes()));
    let file = |role, name: &str, size_bytes| FileEntry {
        role,
        name: name.to_owned(),
        size_bytes,
        digest: Digest::of(name.as_bytes()),
    };
    Manifest {
        format: FORMAT,
        build_id: "6a3b1f0e-7b0c-4e0f-9d7b-0d9f4f1c2a11".parse().unwrap(),
        kind: Kind::Template,
        name: Some("base".to_owned()),
        created_at: "2024-05-06T07:08:09Z".parse().unwrap(),
        shape: Shape {
            vcpus: 2,
            memory_mib: 512,
            disk_mib: 4096,
        },
        engine: EngineVersion {
            name: "qemu".to_owned(),
            version: "7.2.22".to_owned(),
        },
        cpu: CpuRequirement {
            accelerator: Accelerator::Tcg,
            model: "max".to_owned(),
            features: Vec::new(),
        },
        inputs: Inputs {
            kernel: component("6.1.0-56-cloud-amd64"),
            initramfs: component("1"),
            agent: component("0.1.0"),
            rootfs: component("bookworm"),
            key: Digest::of(b"key"),
        },
        parents: Vec::new(),
        memory_below: Vec::new(),
        disk_below: Vec::new(),
        files: vec![
            file(FileRole::Memory, MEMORY_FILE, 512 << 20),
            file(FileRole::DeviceState, DEVICE_STATE_FILE, 9000),
            file(FileRole::Rootfs, ROOTFS_FILE, 4096 << 20),
        ],
    }
}

#[test]
fn the_document_is_stable_and_parses_back() {
    let manifest = example();
    let text = serde_json::to_string_pretty(&manifest).unwrap();
    insta::assert_snapshot!(text);
    assert_eq!(Manifest::parse(text.as_bytes()), Ok(manifest));
}

/// What `parse` says about the example after `change`.
fn refusal(change: impl FnOnce(&mut serde_json::Value)) -> String {
    let mut value = serde_json::to_value(example()).unwrap();
    change(&mut value);
    Manifest::parse(value.to_string().as_bytes()).expect_err("the change is refused")
}

#[test]
fn contradictions_are_refused() {
    assert!(refusal(|v| v["format"] = 3.into()).contains("format 3"));
    assert!(refusal(|v| v["shape"]["memory_mib"] = 1.into()).contains("Memory"));
    assert!(refusal(|v| v["shape"]["memory_mib"] = u64::MAX.into()).contains("Memory"));
    assert!(refusal(|v| v["shape"]["vcpus"] = 0.into()).contains("zero"));
    assert!(refusal(|v| v["parents"] = serde_json::json!([v["build_id"]])).contains("parent"));
    assert!(
        refusal(|v| {
            v["files"].as_array_mut().unwrap().pop();
        })
        .contains("Rootfs")
    );
    assert!(
        refusal(|v| {
            let again = v["files"][0].clone();
            v["files"].as_array_mut().unwrap().push(again);
        })
        .contains("twice")
    );
    assert!(refusal(|v| v["files"][0]["digest"] = "00".into()).contains("digest"));
}

#[test]
fn hostile_names_are_refused() {
    for name in [
        "",
        ".",
        "..",
        "../memory.img",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "a\0b",
        ".hidden",
        "manifest.json",
        "Memory.img",
        "memory\n.img",
        "mémoire.img",
        &"a".repeat(MAX_NAME_LENGTH + 1),
    ] {
        let why = refusal(|value| value["files"][0]["name"] = name.into());
        assert!(why.contains("invalid file name"), "{name:?}: {why}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Manifest::parse(&bytes);
    }

    #[test]
    fn a_damaged_document_never_panics(at in 0usize..1500, byte in any::<u8>()) {
        let mut text = serde_json::to_vec(&example()).unwrap();
        let at = at % text.len();
        text[at] = byte;
        let _ = Manifest::parse(&text);
    }

    #[test]
    fn an_accepted_name_stays_inside(name in "\\PC{0,20}") {
        if valid_file_name(&name) {
            let path = std::path::Path::new("/build").join(&name);
            prop_assert_eq!(path.parent(), Some(std::path::Path::new("/build")));
            prop_assert_eq!(path.components().count(), 3);
        }
    }
}
