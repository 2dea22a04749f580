"""Templates from images of a registry, by the published SDK."""

from typing import Iterator

import pytest
from e2b import Sandbox, Template
from e2b.exceptions import BuildException

from support.daemon import Hearth, running
from support.registry import Layer, Registry, base_layer

SMALL = {"cpu_count": 1, "memory_mb": 256}


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with Registry(login=("reader", "secret")).serving() as registry:
        yield registry


@pytest.fixture(scope="module")
def daemon(registry: Registry) -> Iterator[Hearth]:
    config = {
        "builds": {"install_packages": False, "disk_mib": 1024},
        "registries": {"insecure": [registry.host]},
    }
    with running(config=config) as daemon:
        yield daemon


def from_image(reference: str) -> Template:
    return Template().from_image(reference, username="reader", password="secret")


def build(template, name: str) -> list[str]:
    lines: list[str] = []
    Template.build(template, alias=name, on_build_logs=lambda e: lines.append(e.message), **SMALL)
    return lines


def test_an_image_becomes_a_template(daemon: Hearth, registry: Registry):
    second = (
        Layer()
        .add("opt/kept", b"kept\n")
        .add("opt/hidden", b"hidden\n")
        .add("usr/bin/as-root", b"#!/bin/sh\n", mode=0o4755)
        .done()
    )
    third = Layer().add("opt/.wh.hidden").add("opt/new", b"new\n", uid=7, gid=8).done()
    image = registry.push("plain", base_layer(), second, third, env=("COLOR=blue", "PATH=/opt/bin:/usr/bin:/bin"))
    template = from_image(image).run_cmd("echo $COLOR > color; whoami; pwd; echo $PATH")
    lines = build(template, "plain")
    assert {"user", "/home/user", "/opt/bin:/usr/bin:/bin"} <= set(lines)
    with Sandbox.create("plain") as sandbox:
        shown = sandbox.commands.run(
            "cat color /opt/kept /opt/new; ls /opt; stat -c '%a %u:%g' /usr/bin/as-root /opt/new; echo $COLOR"
        ).stdout
    assert shown == "blue\nkept\nnew\nkept\nnew\n4755 0:0\n644 7:8\nblue\n"
    # The image is asked for again, and nothing of it is fetched again.
    registry.requests.clear()
    assert f"CACHED [base] FROM {image}" in build(template, "plain")
    blobs = [path for path in registry.requests if "/blobs/" in path]
    assert len(blobs) <= 1, registry.requests


@pytest.mark.parametrize(
    "layer, why",
    [
        (Layer().add("../../escape", b"x").done(), "leads out"),
        (Layer().add("x", type=b"Z").done(), "unknown kind"),
        (b"not an archive at all" * 100, "cannot be read"),
    ],
)
def test_hostile_layers_fail_at_the_base(daemon: Hearth, registry: Registry, layer: bytes, why: str):
    image = registry.push("hostile", base_layer(), layer)
    with pytest.raises(BuildException, match=why):
        build(from_image(image).run_cmd("true"), "hostile")


def test_images_that_cannot_be_used_are_refused_with_a_sentence(daemon: Hearth, registry: Registry):
    for image, why in [
        (registry.push("nix", base_layer("ID=nixos\n")), "nixos"),
        (registry.push("arm", base_layer(), architecture="arm64"), "arm64"),
        (f"{registry.host}/absent", "no image"),
    ]:
        with pytest.raises(BuildException, match=why):
            build(from_image(image), "refused")
    image = registry.push("locked", base_layer())
    with pytest.raises(BuildException, match="refuses access"):
        build(Template().from_image(image), "refused")
    records = list((daemon.state_dir / "templates" / "work").iterdir())
    assert records == [], "a failed build left files"
