//! How slots and the host's settings come and go.

use hearth_network::{Adoption, Error, Policy, Slot, SlotPool, TapOwner, UidRange, doctor, tap};

use crate::support::*;

/// Everything this crate makes, as the tools of the host show it.
fn traces() -> String {
    sh("ip -o link show | grep -o 'hveth[0-9]*' | sort -u || true
        ls /run/netns 2>/dev/null | grep '^hearth-' || true
        nft list tables | grep hearth || true
        ip route show proto 72
        cat /proc/sys/net/ipv4/ip_forward")
}

const CLEAN: &str = "0\n";

#[test]
fn a_clean_shutdown_leaves_the_host_as_it_was() {
    isolated(|| async {
        assert_eq!(traces(), CLEAN);
        let pool = SlotPool::start(config(3, 8), &[]).await.unwrap();
        let held = pool.acquire().await.unwrap();
        pool.set_policy(&held, Policy::offline()).await.unwrap();
        let during = traces();
        let index = held.index;
        for part in [
            &format!("hveth{index}"),
            &format!("hearth-{index}"),
            "table inet hearth",
            "unreachable 10.11.0.0/16",
        ] {
            assert!(during.contains(part), "{part} in {during}");
        }
        assert!(during.ends_with("1\n"), "forwarding is on: {during}");
        pool.shutdown(&[]).await.unwrap();
        assert_eq!(traces(), CLEAN);
        assert!(matches!(pool.acquire().await, Err(Error::Closed)));
    });
}

#[test]
fn forwarding_that_was_on_stays_on() {
    isolated(|| async {
        sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
        let pool = SlotPool::start(config(1, 2), &[]).await.unwrap();
        pool.shutdown(&[]).await.unwrap();
        assert_eq!(sh("cat /proc/sys/net/ipv4/ip_forward"), "1\n");
    });
}

#[test]
fn ip_netns_can_use_a_slots_namespace() {
    isolated(|| async {
        let pool = SlotPool::start(config(1, 2), &[]).await.unwrap();
        let slot = pool.acquire().await.unwrap();
        assert!(sh("ip netns list").contains(&format!("hearth-{}", slot.index)));
        let link = sh(&format!(
            "ip netns exec hearth-{} ip -o link show tap0",
            slot.index
        ));
        assert!(link.contains("tap0"), "{link}");
        pool.shutdown(&[]).await.unwrap();
    });
}

#[test]
fn past_the_limit_acquire_is_refused_until_a_slot_comes_back() {
    isolated(|| async {
        let pool = SlotPool::start(config(1, 2), &[]).await.unwrap();
        let (first, second) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
        assert_ne!(first.host_address, second.host_address);
        let refused = pool.acquire().await;
        assert!(
            matches!(refused, Err(Error::Exhausted { max_slots: 2 })),
            "{refused:?}"
        );
        pool.release(first).await.unwrap();
        let again = pool.acquire().await.unwrap();
        assert!(matches!(pool.acquire().await, Err(Error::Exhausted { .. })));
        for slot in [second, again] {
            pool.release(slot).await.unwrap();
        }
        pool.shutdown(&[]).await.unwrap();
    });
}

#[test]
fn a_slot_that_nobody_waits_for_any_more_is_not_lost() {
    isolated(|| async {
        let pool = SlotPool::start(config(1, 3), &[]).await.unwrap();
        for round in 0..20 {
            let callers: Vec<_> = (0..6)
                .map(|_| {
                    let pool = pool.clone();
                    tokio::spawn(async move { pool.acquire().await })
                })
                .collect();
            for (number, caller) in callers.into_iter().enumerate() {
                if (number + round) % 3 == 0 {
                    if let Ok(Ok(slot)) = caller.await {
                        pool.release(slot).await.unwrap();
                    }
                } else {
                    tokio::task::yield_now().await;
                    caller.abort();
                    // Aborted too late: the task already owned the slot.
                    if let Ok(Ok(slot)) = caller.await {
                        pool.release(slot).await.unwrap();
                    }
                }
            }
        }
        let mut slots = Vec::new();
        for _ in 0..3 {
            slots.push(
                tokio::time::timeout(PATIENCE, pool.acquire())
                    .await
                    .unwrap()
                    .unwrap(),
            );
        }
        assert_eq!(pool.status().await.unwrap().held, 3);
        pool.shutdown(&[]).await.unwrap();
    });
}

#[test]
fn leftovers_of_every_kind_are_removed_and_strangers_left_alone() {
    isolated(|| async {
        make_internet();
        sh("ip netns add hearth-77
            ip link add hveth77 type veth peer name eth0 netns hearth-77
            touch /run/netns/hearth-78
            ip link add hveth79 type veth peer name peer-hveth79
            nft add table inet hearth
            nft add set inet hearth offline '{ type ipv4_addr; }'
            nft add chain inet hearth stale
            ip netns add hearth-other
            ip link add hvethx type veth peer name peer-hvethx
            nft add table inet other");
        let pool = SlotPool::start(config(0, 4), &[]).await.unwrap();
        let now = sh("ip -o link show; ls /run/netns; nft list ruleset");
        for gone in ["hveth77", "hearth-77", "hearth-78", "hveth79", "stale"] {
            assert!(!now.contains(gone), "{gone} in {now}");
        }
        for stranger in ["hearth-other", "hvethx", "table inet other", "outside"] {
            assert!(now.contains(stranger), "{stranger} in {now}");
        }
        pool.shutdown(&[]).await.unwrap();
    });
}

#[test]
fn adopted_slots_keep_their_connections_and_policies_over_a_restart() {
    isolated(|| async {
        let outside = make_internet();
        serve(Some(&outside), 80);
        let pool = SlotPool::start(config(2, 8), &[]).await.unwrap();
        let (kept, offline, lost) = (
            pool.acquire().await.unwrap(),
            pool.acquire().await.unwrap(),
            pool.acquire().await.unwrap(),
        );
        let (guest, mute) = (Guest::attach(&kept), Guest::attach(&offline));
        serve(Some(&guest.namespace), 8080);
        serve(Some(&mute.namespace), 8080);
        pool.set_policy(&offline, Policy::offline()).await.unwrap();
        let (mut inward, _) = connect(None, kept.host_address, 8080, PATIENCE).unwrap();
        let (mut outward, _) = connect(Some(&guest.namespace), INTERNET, 80, PATIENCE).unwrap();
        assert!(echoes(&mut inward, "before") && echoes(&mut outward, "before"));

        // As in a crash: nothing is shut down.
        let adopt = [
            Adoption::from(kept.index),
            Adoption {
                index: offline.index,
                policy: Policy::offline(),
            },
            Adoption::from(7),
        ];
        let lost_index = lost.index;
        drop(pool);
        let pool = restart(config(0, 8), &adopt).await;

        assert!(echoes(&mut inward, "after"), "host to guest");
        assert!(echoes(&mut outward, "after"), "guest to internet");
        assert!(
            blocked(Some(&mute.namespace), INTERNET, 80),
            "offline stays offline"
        );
        assert!(reaches(None, offline.host_address, 8080));
        let found = pool.adopted(kept.index).unwrap();
        assert_eq!(found, kept);
        assert_eq!(pool.adopted(kept.index), None, "given out once");
        assert_eq!(pool.adopted(7), None, "there never was one");
        assert!(!traces().contains(&format!("hveth{lost_index}")));

        // A kept slot survives a shutdown, and forwarding with it.
        pool.shutdown(&[kept.index]).await.unwrap();
        assert!(echoes(&mut inward, "kept") && echoes(&mut outward, "kept"));
        assert!(!traces().contains(&format!("hveth{}", offline.index)));
        let pool = restart(config(0, 8), &[]).await;
        assert!(!traces().contains("hveth"));
        pool.shutdown(&[]).await.unwrap();
        assert_eq!(traces(), CLEAN);
    });
}

#[test]
fn a_damaged_slot_is_not_adopted() {
    isolated(|| async {
        let pool = SlotPool::start(config(0, 8), &[]).await.unwrap();
        let mut slots = Vec::new();
        for _ in 0..5 {
            slots.push(pool.acquire().await.unwrap());
        }
        let adopt: Vec<Adoption> = slots.iter().map(|slot| slot.index.into()).collect();
        drop(pool);
        let plan = |slot: &Slot| slot.host_address;
        sh(&format!(
            "ip link del hveth{}; umount /run/netns/hearth-{}; ip -n hearth-{} link del tap0
             ip route del {}",
            slots[0].index,
            slots[1].index,
            slots[2].index,
            plan(&slots[3])
        ));
        let pool = restart(config(0, 8), &adopt).await;
        let whole: Vec<bool> = adopt
            .iter()
            .map(|adoption| pool.adopted(adoption.index).is_some())
            .collect();
        assert_eq!(whole, [false, false, false, false, true]);
        assert_eq!(pool.status().await.unwrap().held, 1);
        pool.shutdown(&[]).await.unwrap();
        assert_eq!(traces(), CLEAN);
    });
}

#[test]
fn a_released_slot_comes_back_without_traces_of_its_last_sandbox() {
    isolated(|| async {
        let outside = make_internet();
        serve(Some(&outside), 80);
        let pool = SlotPool::start(config(1, 1), &[]).await.unwrap();
        let slot = pool.acquire().await.unwrap();
        let address = slot.host_address;
        let guest = Guest::attach(&slot);
        serve(Some(&guest.namespace), 8080);
        let from_guest = Some(guest.namespace.as_path());
        let (_outward, _) = connect(from_guest, INTERNET, 80, PATIENCE).unwrap();
        let (_inward, _) = connect(None, address, 8080, PATIENCE).unwrap();
        pool.set_policy(&slot, Policy::offline()).await.unwrap();
        let tracked = || sh("cat /proc/net/nf_conntrack");
        assert!(tracked().contains(&address.to_string()));
        drop(guest);
        pool.release(slot).await.unwrap();

        let slot = pool.acquire().await.unwrap();
        assert_eq!(slot.host_address, address, "there is only this one");
        assert!(!tracked().contains(&address.to_string()), "{}", tracked());
        assert_eq!(sh("ip netns exec hearth-0 cat /proc/net/nf_conntrack"), "");
        let guest = Guest::attach(&slot);
        assert!(
            reaches(Some(&guest.namespace), INTERNET, 80),
            "the policy is plain again"
        );
        pool.shutdown(&[]).await.unwrap();
    });
}

#[test]
fn a_slot_whose_tap_is_still_open_is_not_handed_out_again() {
    isolated(|| async {
        let pool = SlotPool::start(config(1, 1), &[]).await.unwrap();
        let slot = pool.acquire().await.unwrap();
        let inode =
            |path| std::fs::metadata(path).map(|data| std::os::unix::fs::MetadataExt::ino(&data));
        let before = inode(slot.netns_path.clone()).unwrap();
        let queue = tap::open_queue(&slot.netns_path, &slot.tap, true).unwrap();
        pool.release(slot).await.unwrap();
        // The only index there is: removed, and made anew for the one who waits.
        let slot = tokio::time::timeout(PATIENCE, pool.acquire())
            .await
            .unwrap()
            .unwrap();
        assert_ne!(
            inode(slot.netns_path.clone()).unwrap(),
            before,
            "another namespace"
        );
        drop(queue);
        pool.shutdown(&[]).await.unwrap();
    });
}

#[test]
fn a_second_release_and_a_policy_for_a_released_slot_are_refused() {
    isolated(|| async {
        let pool = SlotPool::start(config(1, 2), &[]).await.unwrap();
        let slot = pool.acquire().await.unwrap();
        let copy = || Slot {
            index: slot.index,
            netns_path: slot.netns_path.clone(),
            tap: slot.tap.clone(),
            host_address: slot.host_address,
            mac: slot.mac,
            uid: slot.uid,
        };
        pool.release(copy()).await.unwrap();
        assert!(matches!(
            pool.release(copy()).await,
            Err(Error::NotHeld { .. })
        ));
        let policy = pool.set_policy(&copy(), Policy::offline()).await;
        assert!(matches!(policy, Err(Error::NotHeld { .. })));
        pool.shutdown(&[]).await.unwrap();
    });
}

#[test]
fn many_policy_changes_at_once_end_as_the_last_one_says() {
    isolated(|| async {
        let pool = SlotPool::start(config(0, 20), &[]).await.unwrap();
        let mut slots = Vec::new();
        for _ in 0..20 {
            slots.push(pool.acquire().await.unwrap());
        }
        let changes = slots.iter().enumerate().flat_map(|(number, slot)| {
            let pool = &pool;
            [false, true, number % 2 == 0].map(move |allowed| {
                let policy = if allowed {
                    Policy::default()
                } else {
                    Policy::offline()
                };
                pool.set_policy(slot, policy)
            })
        });
        for outcome in futures::future::join_all(changes).await {
            outcome.unwrap();
        }
        let set = sh("nft list map inet hearth policies");
        for (number, slot) in slots.iter().enumerate() {
            let listed = set
                .split(|c: char| !c.is_ascii_digit() && c != '.')
                .any(|word| word == slot.host_address.to_string());
            assert_eq!(listed, number % 2 == 1, "slot {number} in {set}");
        }
        pool.shutdown(&[]).await.unwrap();
    });
}

#[test]
fn taken_ranges_are_avoided_and_the_choice_is_remembered() {
    isolated(|| async {
        sh(
            "ip link add office type veth peer name peer-office && ip addr add 10.12.3.4/24 dev office
            ip link set office up && ip route add 172.16.0.0/12 dev office",
        );
        let config = config(1, 4);
        let report = doctor::check_conflicts(&config);
        assert!(
            report[0].ok && report[0].detail.contains("10.12.3.4/24 on office"),
            "{report:?}"
        );
        let pool = SlotPool::start(config.clone(), &[]).await.unwrap();
        assert_eq!(pool.plan().slot_range().to_string(), "10.211.0.0/16");
        pool.shutdown(&[]).await.unwrap();

        sh("ip link del office");
        let pool = SlotPool::start(config.clone(), &[]).await.unwrap();
        assert_eq!(
            pool.plan().slot_range().to_string(),
            "10.211.0.0/16",
            "remembered"
        );
        pool.shutdown(&[]).await.unwrap();

        sh(
            "ip link add wide type veth peer name peer-wide && ip link set wide up
            for net in 10.0.0.0/8 172.16.0.0/12 100.64.0.0/10 198.18.0.0/15; do
              ip route add $net dev wide; done",
        );
        let refused = SlotPool::start(config.clone(), &[]).await;
        assert!(
            matches!(refused, Err(Error::NoFreeRange { .. })),
            "{refused:?}"
        );
        assert!(!doctor::check_conflicts(&config)[0].ok);
        assert_eq!(traces(), CLEAN, "a refused start changes nothing");
    });
}

#[test]
fn two_pools_do_not_share_a_host() {
    isolated(|| async {
        let pool = SlotPool::start(config(1, 2), &[]).await.unwrap();
        let slot = pool.acquire().await.unwrap();
        assert!(matches!(
            SlotPool::start(config(1, 2), &[]).await,
            Err(Error::InUse)
        ));
        assert!(
            traces().contains(&format!("hveth{}", slot.index)),
            "nothing was cleaned away"
        );
        pool.shutdown(&[]).await.unwrap();
        SlotPool::start(config(1, 2), &[])
            .await
            .unwrap()
            .shutdown(&[])
            .await
            .unwrap();
    });
}

#[test]
fn a_slot_that_cannot_be_made_is_an_error_and_leaves_nothing() {
    isolated(|| async {
        let pool = SlotPool::start(config(0, 4), &[]).await.unwrap();
        let after_start = traces();
        // The kernel refuses the second device of a name.
        sh("ip link add hveth0 type veth peer name peer-hveth0");
        let error = pool.acquire().await.unwrap_err();
        assert!(matches!(error, Error::Netlink { .. }), "{error:?}");
        assert_eq!(traces(), after_start);
        let slot = pool.acquire().await.unwrap();
        assert_eq!(slot.index, 0, "and works again when the obstacle is gone");
        pool.shutdown(&[]).await.unwrap();
    });
}

fn uids_from(first: u32) -> TapOwner {
    TapOwner::Fresh(UidRange {
        first,
        count: 1000,
        record: "/run/hearth/uids.json".into(),
    })
}

#[test]
fn no_holder_of_a_slot_has_the_uid_of_another() {
    isolated(|| async {
        let mut config = config(1, 1);
        config.tap_owner = uids_from(4242);
        let pool = SlotPool::start(config.clone(), &[]).await.unwrap();
        let mut uids = Vec::new();
        for _ in 0..3 {
            let slot = pool.acquire().await.unwrap();
            assert_eq!(slot.index, 0);
            uids.push(slot.uid);
            pool.release(slot).await.unwrap();
        }
        let kept = pool.acquire().await.unwrap();
        uids.push(kept.uid);
        drop(pool);
        let adoption = Adoption {
            index: 0,
            policy: Policy::default(),
        };
        let pool = restart(config.clone(), &[adoption]).await;
        let found = pool.adopted(0).unwrap();
        assert_eq!(found.uid, kept.uid, "as its TAP says");
        pool.release(found).await.unwrap();
        uids.push(pool.acquire().await.unwrap().uid);
        drop(pool);
        // As after a crash with nothing to adopt.
        let pool = restart(config, &[]).await;
        uids.push(pool.acquire().await.unwrap().uid);
        let mut different = uids.clone();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), 6, "{uids:?}");
        pool.shutdown(&[]).await.unwrap();
    });
}

#[test]
fn the_owner_may_open_the_tap_without_privileges_and_nobody_else() {
    isolated(|| async {
        let mut config = config(1, 2);
        config.tap_owner = uids_from(4242);
        let pool = SlotPool::start(config, &[]).await.unwrap();
        let slot = pool.acquire().await.unwrap();
        assert!((4242..5242).contains(&slot.uid), "{}", slot.uid);
        let netns = format!("hearth-{}", slot.index);
        // The device node's own mode is another matter, and differs between hosts.
        sh("mknod -m 666 /run/tun c 10 200 && mount --bind /run/tun /dev/net/tun");
        let open = |uid: u32| {
            format!(
                "ip netns exec {netns} setpriv --reuid={uid} --regid={uid} --clear-groups \
                 perl -e 'open(T, \"+<\", \"/dev/net/tun\") or die; $request = pack(\"Z16Sx22\", \
                 \"tap0\", 0x1002); ioctl(T, 0x400454ca, $request) or die $!'"
            )
        };
        sh(&open(slot.uid));
        let refused = sh(&format!("{} 2>&1 || true", open(slot.uid + 1)));
        assert!(refused.contains("Operation not permitted"), "{refused}");
        pool.shutdown(&[]).await.unwrap();
    });
}

#[test]
fn doctor_approves_of_a_plain_host_and_finds_a_firewall_in_the_way() {
    isolated(|| async {
        for check in doctor::check_tools() {
            assert!(check.ok, "{check:?}");
        }
        let config = config(1, 2);
        for check in doctor::check_conflicts(&config) {
            assert!(check.ok, "{check:?}");
        }
        sh("nft add table ip filter
            nft add chain ip filter FORWARD '{ type filter hook forward priority 0; policy drop; }'
            nft add chain ip filter DOCKER-USER");
        let firewall = |checks: Vec<doctor::Check>| {
            checks
                .into_iter()
                .find(|check| check.name == "other firewalls")
                .unwrap()
        };
        let check = firewall(doctor::check_conflicts(&config));
        assert!(!check.ok && check.fix.unwrap().contains("DOCKER-USER -i hveth+"));
        sh("nft add rule ip filter FORWARD iifname 'hveth*' accept");
        assert!(firewall(doctor::check_conflicts(&config)).ok);
        assert_eq!(
            sh("ls /run/netns 2>/dev/null || true"),
            "",
            "checking leaves nothing"
        );
    });
}
