"""A real registry: Debian's. Images of several families, several architectures, by
name and password, and under the name of another registry that it mirrors. And
where AWS's and Google's registries let a build in."""

import base64
import hashlib
import hmac
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Iterator

import pytest
from e2b import Sandbox, Template
from e2b.exceptions import BuildException

from support.builds import output
from support.daemon import Hearth, running
from support.distribution import PASSWORD, USER, Distribution, distribution
from support.internet import Internet, internet
from support.registry import Layer, Registry, base_layer

SMALL = {"cpu_count": 1, "memory_mb": 256}
KEY_ID, KEY, REGION = "AKIAEXAMPLE", "aws/secret+key", "eu-west-1"
ACCOUNT = {"type": "service_account", "project_id": "p", "private_key": "-----BEGIN\n"}


def sign(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


class Aws(BaseHTTPRequestHandler):
    """Gives a password to whoever signs with the key, as AWS describes it."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        token = base64.b64encode(b"AWS:for-twelve-hours").decode()
        fine = self.headers["Authorization"] == self.expected(body)
        answer = json.dumps(
            {"authorizationData": [{"authorizationToken": token}]}
            if fine
            else {"__type": "InvalidSignatureException", "message": "The signature is wrong"}
        ).encode()
        self.send_response(200 if fine else 400)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def expected(self, body: bytes) -> str:
        time = self.headers["X-Amz-Date"]
        names = self.headers["Authorization"].split("SignedHeaders=")[1].split(",")[0]
        assert "host" in names.split(";") and "x-amz-date" in names.split(";")
        headers = "".join(f"{name}:{self.headers[name].strip()}\n" for name in names.split(";"))
        request = f"POST\n/\n\n{headers}\n{names}\n{hashlib.sha256(body).hexdigest()}"
        scope = f"{time[:8]}/{REGION}/ecr/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{time}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        key = f"AWS4{KEY}".encode()
        for part in scope.split("/"):
            key = sign(key, part)
        return (
            f"AWS4-HMAC-SHA256 Credential={KEY_ID}/{scope}, SignedHeaders={names}, "
            f"Signature={sign(key, text).hex()}"
        )

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Aws)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def registry() -> Iterator[Distribution]:
    with distribution() as registry:
        yield registry


@pytest.fixture(scope="module")
def clouds() -> Iterator[dict[str, Registry]]:
    """Registries that let in whoever has what AWS and Google hand out."""
    google = Registry(login=("_json_key", json.dumps(ACCOUNT)))
    amazon = Registry(login=("AWS", "for-twelve-hours"))
    with google.serving(), amazon.serving():
        yield {"google": google, "amazon": amazon}


@pytest.fixture(scope="module")
def outside() -> Iterator[Internet]:
    with internet() as found:
        yield found


@pytest.fixture(scope="module")
def daemon(
    registry: Distribution,
    clouds: dict[str, Registry],
    aws: str,
    outside: Internet,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Hearth]:
    password = tmp_path_factory.mktemp("site") / "password"
    password.write_text(f"{PASSWORD}\n")
    mirror = {
        "registry": "docker.io",
        "location": f"{registry.host}/hub",
        "username": USER,
        "password_file": str(password),
    }
    config = {
        **outside.config(),
        "builds": {"disk_mib": 1024, "ca_file": str(outside.authority)},
        "builds.env": {"SITE_PROXY": "proxy.test:3128"},
        "registries": {
            "insecure": [registry.host, *(cloud.host for cloud in clouds.values())],
            "mirrors": [mirror],
            "aws_endpoint": aws,
        },
    }
    with running(config=config) as daemon:
        yield daemon


def build(template, name: str) -> list[str]:
    lines: list[str] = []
    Template.build(template, alias=name, on_build_logs=lambda e: lines.append(e.message), **SMALL)
    return lines


# Stands for a family's package manager: gets what it is to install from the site's
# mirror, which only the site's authority vouches for.
MANAGER = b"""#!/bin/sh
set -e
case " $* " in *" socat "*) echo "no such package: socat" >&2 && exit 1 ;; esac
for program; do
    case $program in add | --*) continue ;; esac
    curl -sSf https://first.test/$program > /dev/null
    cp /usr/bin/true /usr/bin/$program
    echo "installed $program by $0 through $SITE_PROXY"
done
"""


def test_an_index_by_name_and_password(daemon: Hearth, registry: Distribution):
    image = registry.push(
        "team/app", "1", base_layer(), Layer().add("opt/here", b"here\n").done(),
        architectures=("amd64", "arm64"),
    )
    wrong = Template().from_image(image, username=USER, password="guess")
    with pytest.raises(BuildException, match="refuses access"):
        build(wrong, "app")
    other = registry.push("team/app", "arm", base_layer(), architectures=("arm64",))
    with pytest.raises(BuildException, match="linux/arm64"):
        build(Template().from_image(other, username=USER, password=PASSWORD), "app")


def test_a_mirrored_image_gets_what_it_lacks_from_the_site(daemon: Hearth, registry: Distribution):
    """An Alpine by its name at another registry, with its own package manager, the
    node's name server, and the site's certificates."""
    alpine = base_layer("ID=alpine\n", programs=("curl",))
    registry.push("hub/library/alpine", "3", alpine, Layer().add("usr/bin/apk", MANAGER, mode=0o755).done())
    fetch = "curl -sSf https://first.test/x | head -c 1; echo; echo proxy $SITE_PROXY"
    lines = build(Template().from_image("alpine:3").run_cmd(fetch), "mirrored")
    said = output(lines)
    installed = [line.split()[1] for line in said if line.startswith("installed ")]
    assert installed == (
        "sudo iproute2-ss procps-ng iputils git openssh chrony fuse3 iptables nftables kmod "
        "ca-certificates"
    ).split(), lines
    assert "installed sudo by /usr/bin/apk through proxy.test:3128" in said
    # One that this release does not have keeps none of the others away.
    assert "this release does not have: socat" in said, lines
    assert {"{", "proxy proxy.test:3128"} <= set(said), lines
    with Sandbox.create("mirrored") as sandbox:
        shown = sandbox.commands.run("whoami; echo \"${SITE_PROXY-none}\"").stdout
    assert shown == "user\nnone\n"


def test_clouds_let_builds_in_by_their_own_credentials(daemon: Hearth, clouds: dict[str, Registry]):
    # Of a distribution that is refused: what counts is that its layers were read.
    nix = base_layer("ID=nixos\n")
    google = clouds["google"].push("project/app", nix)
    template = Template().from_gcp_registry(google, service_account_json=ACCOUNT)
    with pytest.raises(BuildException, match="nixos"):
        build(template, "google")
    amazon = clouds["amazon"].push("app", nix)
    for key, why in [(KEY, "nixos"), ("wrong", "The signature is wrong")]:
        template = Template().from_aws_registry(
            amazon, access_key_id=KEY_ID, secret_access_key=key, region=REGION
        )
        with pytest.raises(BuildException, match=why):
            build(template, "amazon")
