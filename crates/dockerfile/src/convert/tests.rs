use super::*;

fn recipe(text: &str) -> Recipe {
    convert(text, &BTreeMap::new()).expect(text)
}

/// The steps of the text alone, without those that every recipe has.
fn actions(text: &str) -> Vec<Action> {
    let mut steps = recipe(&format!("FROM x\nUSER u\nWORKDIR /w\n{text}")).steps;
    steps.drain(..4);
    steps.into_iter().map(|step| step.action).collect()
}

fn run(command: &str) -> Action {
    Action::Run {
        command: command.to_owned(),
        user: None,
    }
}

fn env(pairs: &[(&str, &str)]) -> Action {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Action::Env(pairs.iter().map(own).collect())
}

fn copy(source: &str, destination: &str) -> Action {
    Action::Copy {
        source: source.to_owned(),
        destination: destination.to_owned(),
        owner: None,
        mode: None,
    }
}

fn refused(text: &str) -> Error {
    convert(text, &BTreeMap::new()).expect_err(text)
}

#[test]
fn a_build_begins_as_root_and_ends_where_sandboxes_start() {
    let recipe = recipe("FROM debian:12 AS x\n\nRUN a\n");
    assert_eq!((&*recipe.image, recipe.image_line), ("debian:12", 1));
    let of = |line, action| Step { line, action };
    let expected = [
        of(1, Action::User("root".to_owned())),
        of(1, Action::Workdir("/".to_owned())),
        of(3, run("a")),
        of(3, Action::User("user".to_owned())),
        of(3, Action::Workdir("/home/user".to_owned())),
    ];
    assert_eq!(recipe.steps, expected);
    assert_eq!(recipe.start_command, None);
    // Set once, they stay.
    assert_eq!(actions(""), []);
}

#[test]
fn commands_in_all_forms() {
    assert_eq!(
        actions("RUN echo \"$A\" && \\\n  b"),
        [run("echo \"$A\" &&   b")]
    );
    assert_eq!(
        actions("RUN [\"echo\", \"a b\", \"$A\"]"),
        [run("echo 'a b' '$A'")]
    );
    assert_eq!(actions("RUN <<EOF\na\nb\nEOF"), [run("a\nb\n")]);
    assert_eq!(
        actions("RUN cat <<-E > /x && cat <<F\n\t$A\n\tE\nb\nF"),
        [run("cat <<-E > /x && cat <<F\n\t$A\nE\nb\nF")]
    );
    let [Action::Run { command, .. }] = &actions("RUN <<EOF\n#!/usr/bin/python3\nx='1'\nEOF")[..]
    else {
        panic!("not one command");
    };
    assert!(
        command.contains("printf %s '#!/usr/bin/python3\nx='\\''1'\\''\n'"),
        "{command}"
    );
    let shell = "SHELL [\"/bin/bash\", \"-o\", \"pipefail\", \"-c\"]\nRUN a | b\nRUN [\"c\"]";
    assert_eq!(
        actions(shell),
        [run("/bin/bash -o pipefail -c 'a | b'"), run("c")]
    );
}

#[test]
fn copies_with_owner_mode_and_several_sources() {
    let full = Action::Copy {
        source: "a b".to_owned(),
        destination: "/d/".to_owned(),
        owner: Some("me:us".to_owned()),
        mode: Some(0o755),
    };
    let text = "ENV ME=me\nCOPY --chown=$ME:us --chmod=755 [\"a b\", \"/d/\"]";
    assert_eq!(actions(text)[1..], [full]);
    assert_eq!(
        actions("ADD a* /b /d/"),
        [copy("a*", "/d/"), copy("b", "/d/")]
    );
    assert_eq!(actions("COPY / ${HOME}/x"), [copy(".", "${HOME}/x")]);
}

#[test]
fn here_documents_become_files() {
    let text =
        "COPY --chown=a --chmod=600 <<EOF <<'F' /d/\n$A ${B:-c} `x` \"q\" \\$D\nEOF\n$A 'b'\nF";
    let [
        Action::Run { command, user },
        Action::Run {
            command: second, ..
        },
    ] = &actions(text)[..]
    else {
        panic!("not two commands");
    };
    assert_eq!(user.as_deref(), Some("root"));
    let content = "printf %s \"$A ${B:-c} \\`x\\` \\\"q\\\" \\$D\n\" > \"$t\"";
    assert!(command.contains(content), "{command}");
    assert!(
        command.ends_with("&& chown a \"$t\" && chmod 600 \"$t\""),
        "{command}"
    );
    assert!(second.contains("printf %s '$A '\\''b'\\''\n'"), "{second}");
}

#[test]
fn variables_and_arguments() {
    assert_eq!(
        actions("ENV A=1 B=\"x y\" C=a\\ b \\\n  D='$z'\nENV OLD  style $A\nENV PATH=/x:$PATH"),
        [
            env(&[("A", "1"), ("B", "x y"), ("C", "a b"), ("D", "\\$z")]),
            env(&[("OLD", "style 1")]),
            env(&[("PATH", "/x:${PATH}")]),
        ]
    );
    // The values before the instruction count.
    assert_eq!(
        actions("ENV A=1\nENV A=2 B=$A")[1],
        env(&[("A", "2"), ("B", "1")])
    );
    assert_eq!(
        actions("ARG A=1\nARG NONE\nENV B=$A\nWORKDIR $B/${X}")[..],
        [
            env(&[("A", "1")]),
            env(&[("B", "1")]),
            Action::Workdir("1/${X}".to_owned())
        ]
    );
}

#[test]
fn arguments_are_given_from_outside() {
    let given = [("V", "13"), ("SECRET", "a$b"), ("UNUSED", "x")];
    let given = given
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let text = "ARG V=12\nARG K=slim\nFROM debian:$V-${K}\nARG V\nARG SECRET=no\nRUN a";
    let recipe = convert(text, &given).expect("converts");
    assert_eq!(recipe.image, "debian:13-slim");
    assert_eq!(recipe.steps[2].action, env(&[("V", "13")]));
    assert_eq!(recipe.steps[3].action, env(&[("SECRET", "a\\$b")]));
    assert!(
        recipe.warnings[0].message.contains("UNUSED"),
        "{:?}",
        recipe.warnings
    );
    // What stands before FROM counts after it only where it is asked for again.
    let text = "ARG V=12\nFROM x\nENV B=$V\nARG V\nENV C=$V";
    let steps = super::convert(text, &BTreeMap::new())
        .expect("converts")
        .steps;
    assert_eq!(steps[2].action, env(&[("B", "${V}")]));
    assert_eq!(steps[4].action, env(&[("C", "12")]));
}

#[test]
fn entrypoint_and_command_make_the_start_command() {
    let start = |text: &str| recipe(&format!("FROM x\n{text}")).start_command;
    for (text, expected) in [
        ("CMD exec foo $A", "exec foo $A"),
        ("CMD [\"foo\", \"$A b\"]", "foo '$A b'"),
        ("ENTRYPOINT [\"foo\"]\nCMD [\"a b\"]", "foo 'a b'"),
        ("CMD a b\nENTRYPOINT [\"foo\"]", "foo /bin/sh -c 'a b'"),
        ("ENTRYPOINT foo\nCMD [\"a\"]", "foo"),
        ("CMD a\nCMD b", "b"),
    ] {
        assert_eq!(start(text).as_deref(), Some(expected), "{text}");
    }
    assert_eq!(start("CMD []"), None);
    assert_eq!(recipe("FROM x\nRUN a\nCMD b").start_line, Some(3));
}

#[test]
fn what_cannot_be_built_is_refused_with_its_line() {
    for (text, line, word) in [
        ("FROM a\nRUN x\nFROM b", Some(3), "stages"),
        ("FROM a\nCOPY --from=b /x /y", Some(2), "stages"),
        ("RUN a\nFROM b", Some(1), "before FROM"),
        ("# nothing\n", None, "no FROM"),
        ("FROM\n", Some(1), "FROM"),
        ("FROM scratch", Some(1), "scratch"),
        ("FROM $NONE", Some(1), "no image"),
        ("FROM a b", Some(1), "AS"),
        ("FROM a\n\nFETCH x", Some(3), "FETCH"),
        ("FROM a\nRUN", Some(2), "no command"),
        ("FROM a\nCOPY x", Some(2), "destination"),
        ("FROM a\nCOPY x y z", Some(2), "ends with"),
        ("FROM a\nCOPY ../x /y", Some(2), "out of the context"),
        ("FROM a\nCOPY x/../../y /z", Some(2), "out of the context"),
        ("FROM a\nADD https://x/y /z", Some(2), "remote"),
        ("FROM a\nCOPY --chmod=u+x a b", Some(2), "octal"),
        ("FROM a\nCOPY --wrong a b", Some(2), "unknown flag"),
        ("FROM a\nENV A=1 B", Some(2), "\"=\""),
        ("FROM a\nENV A", Some(2), "NAME=VALUE"),
        ("FROM a\nENV A-B=1", Some(2), "A-B"),
        ("FROM a\nWORKDIR \"/x", Some(2), "not closed"),
        ("FROM a\nUSER", Some(2), "USER"),
        ("FROM a\nRUN a && \\\n b <<EOF\nx", Some(2), "EOF"),
        ("FROM a\nSHELL /bin/sh", Some(2), "JSON"),
    ] {
        let error = refused(text);
        assert_eq!(error.line, line, "{text}: {error}");
        assert!(error.message.contains(word), "{text}: {error}");
    }
}

#[test]
fn what_means_nothing_is_passed_over() {
    let text = "FROM --platform=linux/amd64 a\nEXPOSE 80\nLABEL a=b\nVOLUME /x\nHEALTHCHECK NONE\n\
                RUN --mount=type=cache,target=/x b\nADD x.tar.gz /y/";
    let recipe = recipe(text);
    let lines: Vec<usize> = recipe.warnings.iter().map(|warning| warning.line).collect();
    assert_eq!(lines, [1, 5, 6, 7], "{:?}", recipe.warnings);
    assert_eq!(recipe.steps.len(), 6);
}

proptest::proptest! {
    #[test]
    fn any_text_is_converted_or_refused(
        text in "FROM x\n((RUN|COPY|ENV|ARG|CMD|USER|ADD|SHELL) |<<E|\nE\n|\\\\|\"|'|\\[|\\$|\\{|\\}|=|\n| |/|[a-z]|\\PC){0,60}"
    ) {
        let _ = convert(&text, &BTreeMap::new());
    }
}
