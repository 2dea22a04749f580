"""What `scripts/figures.py` sees in source, and how its list is held against it."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "figures.py"
SPEC = importlib.util.spec_from_file_location("figures", SCRIPT)
assert SPEC and SPEC.loader
figures = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(figures)


def circles(files: dict[str, str]) -> list[list[str]]:
    code = {
        name: figures.without_tests(figures.blanked(text, strings=True)) for name, text in files.items()
    }
    return figures.circles(figures.Crate(code).arrows())


def test_files_that_use_each_other_are_a_circle_however_they_say_it():
    uses = ["use crate::b::B;", "use super::b::{A, B as C};", "use super::{b::*};", "fn f() { super::b::g() }"]
    for line in uses:
        files = {"lib.rs": "mod a; mod b;", "a.rs": line, "b.rs": "use crate::{c, a::A};", "c.rs": ""}
        assert circles(files) == [["a.rs", "b.rs"]], line
    # Through a third one, and through folders.
    files = {
        "lib.rs": "mod a; mod b;",
        "a/mod.rs": "mod inner; use inner::Inner;",
        "a/inner.rs": "use crate::b::B;",
        "b.rs": "use crate::a::A;",
    }
    assert circles(files) == [["a/inner.rs", "a/mod.rs", "b.rs"]]


def test_what_is_handed_on_is_of_the_file_that_has_it():
    files = {
        "lib.rs": "mod a; mod b; pub use a::A; pub use b::B;",
        "a.rs": "use crate::B;",
        "b.rs": "pub struct B;",
    }
    assert circles(files) == []
    assert circles({**files, "b.rs": "use crate::A;"}) == [["a.rs", "b.rs"]]


def test_comments_strings_and_tests_are_no_uses():
    files = {
        "lib.rs": "mod a; mod b;",
        "a.rs": "use crate::b::B;",
        "b.rs": """
            //! [`crate::a`]
            /* use crate::a::A; */
            const TEXT: &str = "use crate::a::A;";
            #[cfg(test)]
            mod tests { use crate::a::A; fn f() { "}" } }
            #[cfg(test)]
            use crate::a::A;
        """,
    }
    assert circles(files) == []


@pytest.mark.parametrize(
    "call, said",
    [
        ('tracing::warn!(%id, error = %error, "remove the journal failed");', None),
        ('warn!("{id}: remove failed");', "fields"),
        ('tracing::error!(%error, "cannot remove the journal");', "cannot"),
        ('tracing::info!("Removed.");', "capital"),
        ('tracing::warn!(\n    path = "a beside b",\n    "a journal \\\n     stays behind"\n);', "stays behind"),
        ('tracing::debug!(text = %format!("{id}"), "NBD request refused");', None),
    ],
)
def test_messages(call, said):
    [(line, _, text)] = figures.messages(f"fn f() {{\n{call}\n}}")
    assert line == 2
    complaint = figures.complaint(text)
    assert (complaint is None) if said is None else (said in complaint)


def test_the_list_may_shrink_and_never_grow():
    def finding(kind, key, amount):
        return figures.Finding(kind, key, amount, f"{key} is bad")

    allowed = {"lines": {"a.rs": 600}, "circles": {"crates/x: a.rs b.rs c.rs": 3}}
    assert figures.judge([finding("lines", "a.rs", 600)], allowed) == []
    assert figures.judge([finding("lines", "a.rs", 510)], allowed) == []
    assert figures.judge([finding("circles", "crates/x: a.rs c.rs", 2)], allowed) == []
    for worse in [
        finding("lines", "a.rs", 601),
        finding("lines", "b.rs", 501),
        finding("circles", "crates/x: a.rs d.rs", 2),
        finding("circles", "crates/y: a.rs b.rs", 2),
        finding("messages", "a.rs", 1),
    ]:
        assert len(figures.judge([worse], allowed)) == 1, worse
