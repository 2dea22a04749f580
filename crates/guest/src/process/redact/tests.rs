use proptest::prelude::*;

use super::*;

fn line(args: &[&str]) -> String {
    let config = ProcessConfig {
        cmd: args[0].into(),
        args: args[1..].iter().map(|arg| (*arg).into()).collect(),
        ..Default::default()
    };
    command_line(&config)
}

fn bash(script: &str) -> String {
    line(&["bash", "-lc", script])
        .strip_prefix("bash -lc ")
        .expect("the shell")
        .to_owned()
}

#[test]
fn what_the_sdks_run_is_shown_without_its_secrets() {
    let config = r#"{"github":{"githubPersonalAccessToken":"S3CRET a"},"n":"it'"'"'s S3CRET"}"#;
    for run in ["mcp-gateway --config", "sudo /usr/bin/mcp-gateway --config"] {
        assert_eq!(
            bash(&format!("{run} '{config}'")),
            format!("{run} [hidden]")
        );
    }
    assert_eq!(
        line(&["mcp-gateway", "--config", config]),
        "mcp-gateway --config [hidden]"
    );
    assert_eq!(
        bash("mcp-gateway --config='{\"a\": 1}' > log; echo --config x"),
        "mcp-gateway --config=[hidden] > log; echo --config x"
    );
    assert_eq!(
        bash("git clone https://me:S3/CR@ET@github.com/a/b.git dir"),
        "git clone https://[hidden]@github.com/a/b.git dir"
    );
    assert_eq!(
        bash("git 'clone' 'https://me:S3CRET@github.com/a/b.git'"),
        "git 'clone' 'https://[hidden]@github.com/a/b.git'"
    );
    let approve =
        "printf %s 'protocol=https\nusername=me\npassword=S3CRET\n\n' | git credential approve";
    assert_eq!(
        bash(approve),
        "printf %s 'protocol=https\nusername=me\npassword=[hidden]\n\n' | git credential approve"
    );
}

#[test]
fn values_are_hidden_however_they_are_written() {
    for (script, shown) in [
        ("API_KEY=S3CRET run me", "API_KEY=[hidden] run me"),
        (
            "export DB_PASSWORD='S3 CRET'; ls",
            "export DB_PASSWORD=[hidden]; ls",
        ),
        (
            "tool --token S3CRET --verbose",
            "tool --token [hidden] --verbose",
        ),
        ("tool --api-key=\"S3 CRET\" x", "tool --api-key=[hidden] x"),
        (
            "tool --password 'S3 CRET'|cat",
            "tool --password [hidden]|cat",
        ),
        (
            "curl -H 'Authorization: Bearer S3CRET' -sS https://x.org/a",
            "curl -H 'Authorization: [hidden]' -sS https://x.org/a",
        ),
        ("curl -u me:S3CRET x.org", "curl -u [hidden] x.org"),
        ("mysql -pS3CRET db", "mysql -p[hidden] db"),
        (
            "tool --token \\\n  S3CRET \\\n  --verbose",
            "tool --token \\\n  [hidden] \\\n  --verbose",
        ),
        (
            "curl -sS \\\n -u \\\nme:S3CRET x.org",
            "curl -sS \\\n -u \\\n[hidden] x.org",
        ),
        (
            r#"curl -d '{"password": "S3CRET", "name": "n"}' x"#,
            r#"curl -d '{"password": "[hidden]", "name": "n"}' x"#,
        ),
        (
            r#"curl -d "{\"secret\":\"S3CRET\"}" x"#,
            r#"curl -d "{\"secret\":\"[hidden]"}" x"#,
        ),
        (
            "curl 'https://x.org/?token=S3CRET&page=2'",
            "curl 'https://x.org/?token=[hidden]&page=2'",
        ),
        ("echo e2b_0123456789abcdef0123", "echo [hidden]"),
        (
            "sh -c \"mcp-gateway --config S3CRET\"",
            "sh -c \"mcp-gateway --config [hidden]\"",
        ),
        (
            "echo 'TOKEN=S3CRET and no end",
            "echo 'TOKEN=[hidden] and no end",
        ),
    ] {
        let redacted = bash(script);
        assert!(
            !redacted.contains("S3") && !redacted.contains("CRET"),
            "{redacted}"
        );
        assert_eq!(redacted, shown);
    }
    assert_eq!(line(&["tool", "--token", "a b"]), "tool --token [hidden]");
    assert_eq!(
        line(&["env", "TOKEN=a b", "tool"]),
        "env TOKEN=[hidden] tool"
    );
}

#[test]
fn ordinary_commands_are_shown_as_they_are() {
    for script in [
        "ls -la /home/user && echo \"done: $?\"",
        "python train.py --max-tokens 100 --tokenizer=bpe",
        "npm install https://registry.example.org/@types/node/-/node-20.0.0.tgz",
        "curl http://localhost:8080/health; sleep 1 &",
        "for i in $(seq 3); do echo 'a b' >> \"/tmp/ä ö\"; done",
        "git commit -m 'authors: everybody' --author=me",
        "std::token::parse",
    ] {
        assert_eq!(bash(script), script);
    }
}

proptest! {
    #[test]
    fn any_text_is_taken(text in "(--token|mcp-gateway|--config|curl|-u|://|[a-z@:='\"\\\\ ;é]){0,24}") {
        let _ = line(&["bash", "-c", &text, &text]);
    }

    #[test]
    fn a_quoted_value_never_shows(
        value in "[A-Z]{8}[ -~]{0,20}",
        name in prop::sample::select(&["--token ", "--api-key=", "MY_SECRET=", "mcp-gateway --config "][..]),
    ) {
        let quoted = format!("'{}'", value.replace('\'', "'\"'\"'"));
        let shown = bash(&format!("run {name}{quoted} end"));
        prop_assert!(!shown.contains(&value[..8]), "{}", shown);
        prop_assert!(shown.ends_with(" end"), "{}", shown);
    }
}
