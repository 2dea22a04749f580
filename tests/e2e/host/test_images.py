"""Templates from images of a registry, by the published SDK."""

from pathlib import Path
from typing import Iterator

import pytest
from e2b import Sandbox, Template
from e2b.exceptions import BuildException

from support import machine
from support.builds import output
from support.daemon import Hearth, running
from support.registry import Layer, Registry, base_layer, bomb, digest, many_files
from support.waiting import until

SMALL = {"cpu_count": 1, "memory_mb": 256}


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with Registry(login=("reader", "secret")).serving() as registry:
        yield registry


@pytest.fixture(scope="module")
def daemon(registry: Registry) -> Iterator[Hearth]:
    config = {
        "builds": {"install_packages": False, "disk_mib": 1024, "max_disk_mib": 1536},
        "registries": {"insecure": [registry.host]},
    }
    with running(config=config) as daemon:
        yield daemon


@pytest.fixture(autouse=True)
def nothing_left(daemon: Hearth) -> Iterator[None]:
    """Whatever became of a build, it holds nothing, and the daemon is well."""
    loops = loop_devices()
    yield
    assert list((daemon.state_dir / "templates" / "work").iterdir()) == []
    assert machine.vm_processes(daemon.run_dir) == []
    assert machine.mounts_under(daemon.state_dir) == set()
    assert loop_devices() == loops
    with daemon.client() as client:
        assert client.get("/health").is_success


def loop_devices() -> set[str]:
    return {path.name for path in Path("/sys/block").glob("loop*") if (path / "loop").exists()}


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
    third = Layer().add("opt/.wh.hidden").add("opt/new", b"new\n", uid=7, gid=8)
    # An absolute link leads where it does in the image, and there alone.
    third = third.link("srv", "/opt").add("srv/through", b"through\n").done()
    image = registry.push("plain", base_layer(), second, third, env=("COLOR=blue", "PATH=/opt/bin:/usr/bin:/bin"))
    template = from_image(image).run_cmd("echo $COLOR > color; whoami; pwd; echo $PATH")
    lines = build(template, "plain")
    assert {"user", "/home/user", "/opt/bin:/usr/bin:/bin"} <= set(output(lines))
    with Sandbox.create("plain") as sandbox:
        shown = sandbox.commands.run(
            "cat color /opt/kept /opt/new; ls /opt; stat -c '%a %u:%g' /usr/bin/as-root /opt/new"
        ).stdout
        show = "echo $COLOR $PATH"
        variables = sandbox.commands.run(show).stdout
        own = sandbox.commands.run(show, envs={"COLOR": "red"}).stdout
        # Where `npm -g` and `pip` install.
        sandbox.commands.run("touch /usr/local/x /code/y")
        # The kernel's modules are there, with their indexes and device files.
        modules = "cd /lib/modules/* && ls modules.dep.bin && stat -c %t:%T /dev/net/tun"
        assert sandbox.commands.run(modules).stdout == "modules.dep.bin\na:c8\n"
    assert shown == "blue\nkept\nnew\nkept\nnew\nthrough\n4755 0:0\n644 7:8\n"
    assert variables == "blue /opt/bin:/usr/bin:/bin\n"
    assert own == "red /opt/bin:/usr/bin:/bin\n"
    assert not Path("/opt/through").exists()
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
        (bomb(4), "larger than the 1536 MiB"),
    ],
)
def test_hostile_layers_fail_at_the_base(daemon: Hearth, registry: Registry, layer: bytes, why: str):
    image = registry.push("hostile", base_layer(), layer)
    with pytest.raises(BuildException, match=why):
        build(from_image(image).run_cmd("true"), "hostile")


def test_images_that_cannot_be_used_are_refused_with_a_sentence(daemon: Hearth, registry: Registry):
    for image, why in [
        (registry.push("nix", base_layer("ID=nixos\n")), "ID='nixos' is not supported"),
        (registry.push("ol", base_layer('ID="ol"\nID_LIKE="fedora"\n')), "ID='ol' is not supported"),
        (registry.push("arm", base_layer(), architecture="arm64"), "arm64"),
        (f"{registry.host}/absent", "no image"),
    ]:
        with pytest.raises(BuildException, match=why):
            build(from_image(image), "refused")
    image = registry.push("locked", base_layer())
    with pytest.raises(BuildException, match="refuses access"):
        build(Template().from_image(image), "refused")


def test_registries_that_lie_are_found_out(daemon: Hearth, registry: Registry):
    layer = Layer().add("opt/x", b"x" * 5000).done()
    image = registry.push("lies", base_layer(), layer)
    for served, why in [
        (bytes(len(layer)), "has the digest"),
        (layer + b"more", "longer than"),
        (layer[:-1], "its end"),
    ]:
        registry.blobs[digest(layer)] = served
        with pytest.raises(BuildException, match=why):
            build(from_image(image), "lies")


def test_a_build_is_given_up_while_its_image_is_on_its_way(daemon: Hearth, registry: Registry):
    layer = Layer().add("opt/x", b"x" * 5000).done()
    image = registry.push("slow", base_layer(), layer)
    registry.stalled.add(digest(layer))
    info = Template.build_in_background(from_image(image), alias="slow", **SMALL)
    until(lambda: registry.stalls, "the registry to be asked for the layer")
    path = f"/templates/{info.template_id}/builds/{info.build_id}"
    with daemon.client() as client:
        assert client.delete(path).status_code == 204
        answer = client.get(f"{path}/status").json()
    assert answer["status"] == "error" and "cancelled" in answer["reason"]["message"]


def test_a_layer_of_100000_files(daemon: Hearth, registry: Registry):
    """Unpacked in a moment; and the last layer makes the image one that is refused."""
    nix = Layer().add("etc/os-release", b"ID=nixos\n").done()
    image = registry.push("many", base_layer(), many_files(100_000), nix)
    with pytest.raises(BuildException, match="nixos"):
        build(from_image(image), "many")
