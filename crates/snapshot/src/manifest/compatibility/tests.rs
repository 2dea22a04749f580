use super::super::tests::example;
use super::*;

/// The host that `manifest` was made on.
fn own(manifest: &Manifest) -> Host {
    Host {
        engine: manifest.engine.clone(),
        cpu: manifest.cpu.clone(),
    }
}

fn with_features(names: &[&str]) -> CpuRequirement {
    CpuRequirement {
        accelerator: Accelerator::Kvm,
        model: "host".to_owned(),
        features: names.iter().map(|&name| name.to_owned()).collect(),
    }
}

/// What the example is refused for on its own host after `change`, and the sentence.
fn refusal(change: impl FnOnce(&mut Host)) -> (Mismatch, String) {
    let manifest = example();
    let mut host = own(&manifest);
    change(&mut host);
    let refused = manifest.runs_on(&host).unwrap_err();
    assert_eq!(refused.build, manifest.build_id);
    let text = refused.to_string();
    for part in [
        &*manifest.build_id.to_string(),
        "disk alone",
        "made again here",
    ] {
        assert!(text.contains(part), "{text}");
    }
    (refused.why, text)
}

#[test]
fn what_is_saved_here_goes_on_here() {
    let mut manifest = example();
    assert_eq!(manifest.runs_on(&own(&manifest)), Ok(()));
    manifest.cpu = with_features(&["avx2", "fpu"]);
    assert_eq!(manifest.runs_on(&own(&manifest)), Ok(()));
}

#[test]
fn another_engine_is_refused() {
    let (why, text) = refusal(|host| {
        host.engine.name = "firecracker".to_owned();
        host.engine.version = "1.12.1".to_owned();
    });
    assert!(matches!(why, Mismatch::Engine { .. }));
    assert!(text.contains("saved by qemu 7.2.22"), "{text}");
    assert!(text.contains("this node runs firecracker 1.12.1"), "{text}");
}

#[test]
fn another_series_of_the_engine_is_refused_and_a_fix_is_not() {
    for version in ["7.2.23", "7.2.2", "7.2.22-rc1", "7.2"] {
        let manifest = example();
        let mut host = own(&manifest);
        host.engine.version = version.to_owned();
        assert_eq!(manifest.runs_on(&host), Ok(()), "{version}");
    }
    for version in ["7.1.22", "7.20.22", "8.2.22", "10.0.2", "7", "unknown", ""] {
        let (why, text) = refusal(|host| host.engine.version = version.to_owned());
        assert!(matches!(why, Mismatch::EngineVersion { .. }), "{version}");
        assert!(text.contains("saved by qemu 7.2.22"), "{text}");
    }
    let (_, text) = refusal(|host| host.engine.version = "8.2.1".to_owned());
    assert!(text.contains("runs qemu 8.2.1, which"), "{text}");
    assert!(text.contains("a version 8.2.x saved"), "{text}");
}

#[test]
fn the_other_accelerator_is_refused() {
    let (why, text) = refusal(|host| host.cpu.accelerator = Accelerator::Kvm);
    let (saved, here) = (Accelerator::Tcg, Accelerator::Kvm);
    assert_eq!(why, Mismatch::Accelerator { saved, here });
    assert!(
        text.contains("saved on tcg, and guests run on kvm"),
        "{text}"
    );
}

#[test]
fn another_processor_model_is_refused() {
    let (why, text) = refusal(|host| host.cpu.model = "max,-erms".to_owned());
    assert!(matches!(why, Mismatch::Model { .. }));
    assert!(
        text.contains("model max, and guests see max,-erms"),
        "{text}"
    );
}

#[test]
fn features_that_programs_use_must_be_there() {
    let mut manifest = example();
    let mut host = own(&manifest);
    manifest.cpu = with_features(&["avx2", "fpu", "sse4_2"]);
    host.cpu = with_features(&["avx2", "fpu", "new_name", "sse4_2"]);
    assert_eq!(manifest.runs_on(&host), Ok(()));
    // The kernel's own names come and go with its version.
    manifest.cpu = with_features(&["avx2", "old_name", "rep_good"]);
    assert_eq!(manifest.runs_on(&host), Ok(()));
    manifest.cpu = with_features(&["avx2", "avx512f", "sha_ni"]);
    let refused = manifest.runs_on(&host).unwrap_err();
    let missing = ["avx512f", "sha_ni"].map(str::to_owned).to_vec();
    assert_eq!(refused.why, Mismatch::Features(missing));
    assert!(
        refused.to_string().contains("with avx512f, sha_ni, which"),
        "{refused}"
    );
}
