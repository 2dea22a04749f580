use super::*;
use hearth_ids::TeamId;

fn volume(name: &str, state: VolumeState) -> Volume {
    Volume {
        id: VolumeId::random(),
        team_id: TeamId::random(),
        name: name.to_owned(),
        state,
        created_at: Utc::now(),
    }
}

fn request(name: &str, path: &str) -> MountRequest {
    MountRequest {
        name: name.to_owned(),
        path: path.to_owned(),
    }
}

#[test]
fn mounts_are_found_by_name() {
    let volumes = [
        volume("a", VolumeState::Ready),
        volume("b", VolumeState::Ready),
    ];
    // One volume may be seen in two places.
    let requests = [
        request("b", "/b"),
        request("a", "/mnt/a"),
        request("b", "/b/b"),
    ];
    let mounts = resolve(&requests, &volumes).expect("resolves");
    let mounts: Vec<_> = mounts.iter().map(|m| (m.volume, m.path.as_str())).collect();
    assert_eq!(
        mounts,
        [
            (volumes[1].id, "/b"),
            (volumes[0].id, "/mnt/a"),
            (volumes[1].id, "/b/b")
        ]
    );
}

#[test]
fn everything_that_is_wrong_with_mounts_is_told() {
    let volumes = [
        volume("a", VolumeState::Ready),
        volume("copy", VolumeState::Making),
    ];
    let requests = [
        request("x", ""),
        request("a", "relative"),
        request("a", "/a/../b"),
        request("a", "/a"),
        request("a", "//a/"),
        request("copy", "/copy"),
        request("a", "//"),
    ];
    let error = resolve(&requests, &volumes).expect_err("is refused");
    assert_eq!(error.kind, Kind::Invalid);
    assert_eq!(
        error.message,
        "invalid mounts:\
         \n\t- volume mount #0: volume 'x' not found\
         \n\t- volume mount #0: path cannot be empty\
         \n\t- volume mount #1: path must be absolute\
         \n\t- volume mount #2: path must not contain any '.' or '..' components\
         \n\t- volume mount #4: path '//a/' is already used\
         \n\t- volume mount #5: volume 'copy' is not ready\
         \n\t- volume mount #6: path must not be the root"
    );
}

#[test]
fn names_are_as_the_contract_says() {
    for good in ["a", "A-b_9", &"x".repeat(128)] {
        assert!(check_name(good).is_ok(), "{good}");
    }
    for bad in ["", "a b", "a/b", "ä", "a.b", &"x".repeat(129)] {
        assert!(check_name(bad).is_err(), "{bad}");
    }
}
