"""What the API answers to requests that are wrong."""

import uuid

import httpx
import pytest

from support.waiting import until

UNKNOWN = "i00000000000000000000"
CREATE_PATHS = ["/sandboxes", "/v2/sandboxes"]


@pytest.fixture(scope="module")
def api(module_hearth):
    with module_hearth.client() as client:
        yield client


@pytest.fixture(scope="module")
def stranger(module_hearth):
    """A client of another team."""
    with module_hearth.client(api_key=module_hearth.create_key("other")) as client:
        yield client


@pytest.fixture
def sandbox_id(api):
    created = api.post("/v2/sandboxes", json={"templateID": "base", "timeout": 120})
    assert created.status_code == 201, created.text
    sandbox_id = created.json()["sandboxID"]
    yield sandbox_id
    api.delete(f"/sandboxes/{sandbox_id}")


def assert_error(response: httpx.Response, status: int, *words: str) -> dict:
    """Errors are JSON with the status as `code` and a message that says why."""
    assert response.status_code == status, response.text
    body = response.json()
    assert body["code"] == status
    assert isinstance(body["message"], str) and body["message"]
    for word in words:
        assert word in body["message"]
    return body


@pytest.mark.parametrize("path", CREATE_PATHS)
def test_unknown_template(api, path):
    assert_error(api.post(path, json={"templateID": "no-such-template"}), 404, "no-such-template")


@pytest.mark.parametrize("path", CREATE_PATHS)
@pytest.mark.parametrize("timeout", [0, -1, 10**9, 2**31, "soon", 1.5])
def test_timeout_of_create_out_of_range(api, path, timeout):
    body = assert_error(api.post(path, json={"templateID": "base", "timeout": timeout}), 400)
    assert "timeout" in body["message"].lower()


@pytest.mark.parametrize("timeout", [-1, 10**9, "soon", None])
def test_timeout_of_a_running_sandbox_out_of_range(api, sandbox_id, timeout):
    assert_error(api.post(f"/sandboxes/{sandbox_id}/timeout", json={"timeout": timeout}), 400)
    assert api.get(f"/sandboxes/{sandbox_id}").status_code == 200


@pytest.mark.parametrize("path", CREATE_PATHS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"not json",
        b"[]",
        b"null",
        b'"base"',
        b"{}",
        b'{"templateID": 5}',
        b'{"templateID": ""}',
        b'{"templateID": "base", "metadata": []}',
        b'{"templateID": "base", "metadata": {"a": 1}}',
        b'{"templateID": "base", "envVars": "x"}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:40]),
)
def test_malformed_bodies(api, path, body):
    assert_error(api.post(path, content=body, headers={"Content-Type": "application/json"}), 400)


def test_validation_errors_name_the_field(api):
    body = assert_error(
        api.post("/v2/sandboxes", json={"templateID": "base", "metadata": {"a": 1}}), 400
    )
    assert "metadata" in body["message"]


@pytest.mark.parametrize(
    "name", ["UPPER", "with space", "../etc/passwd", "a/b/c", "base:", "ü", "x" * 5000]
)
def test_malformed_template_names(api, name):
    response = api.post("/v2/sandboxes", json={"templateID": name})
    assert response.status_code in (400, 404)
    assert_error(response, response.status_code)


def test_large_bodies_are_refused(api):
    body = b'{"templateID": "base", "metadata": {"a": "' + b"x" * (17 * 1024 * 1024) + b'"}}'
    response = api.post("/v2/sandboxes", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 413)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-KEY": ""},
        {"X-API-KEY": "test"},
        {"X-API-KEY": "e2b_" + "0" * 40},
        {"Authorization": "Bearer nonsense"},
    ],
    ids=repr,
)
def test_missing_and_wrong_keys(module_hearth, headers):
    with httpx.Client(base_url=module_hearth.url, headers=headers, timeout=60) as client:
        for response in (
            client.post("/v2/sandboxes", json={"templateID": "base"}),
            client.get("/v2/sandboxes"),
            client.get("/sandboxes"),
            client.get(f"/sandboxes/{UNKNOWN}"),
            client.delete(f"/sandboxes/{UNKNOWN}"),
        ):
            assert_error(response, 401)


def test_health_needs_no_key(module_hearth):
    assert httpx.get(f"{module_hearth.url}/health").is_success


def test_unknown_path(api):
    assert_error(api.get("/no/such/path"), 404)


@pytest.mark.parametrize("sandbox", [UNKNOWN, "nonsense", "..%2F..%2Fetc", "x" * 3000])
def test_unknown_sandbox(api, sandbox):
    for response in (
        api.get(f"/sandboxes/{sandbox}"),
        api.delete(f"/sandboxes/{sandbox}"),
        api.post(f"/sandboxes/{sandbox}/timeout", json={"timeout": 60}),
        api.post(f"/sandboxes/{sandbox}/refreshes", json={"duration": 60}),
        api.post(f"/sandboxes/{sandbox}/connect", json={"timeout": 60}),
        api.post(f"/v2/sandboxes/{sandbox}/connect", json={}),
    ):
        # An id that cannot be one may also be called malformed.
        assert response.status_code == 404 or (sandbox != UNKNOWN and response.status_code == 400)
        assert_error(response, response.status_code)
    message = api.get(f"/sandboxes/{UNKNOWN}").json()["message"]
    assert message == f"Sandbox \"{UNKNOWN}\" doesn't exist or you don't have access to it"


def test_another_teams_sandbox(api, stranger, sandbox_id):
    for response in (
        stranger.get(f"/sandboxes/{sandbox_id}"),
        stranger.delete(f"/sandboxes/{sandbox_id}"),
        stranger.post(f"/sandboxes/{sandbox_id}/timeout", json={"timeout": 60}),
        stranger.post(f"/sandboxes/{sandbox_id}/refreshes", json={"duration": 60}),
        stranger.post(f"/sandboxes/{sandbox_id}/connect", json={"timeout": 60}),
        stranger.post(f"/v2/sandboxes/{sandbox_id}/connect", json={}),
    ):
        assert_error(response, 404, sandbox_id)
    assert sandbox_id not in stranger.get("/v2/sandboxes").text
    assert sandbox_id not in stranger.get("/sandboxes").text
    assert api.get(f"/sandboxes/{sandbox_id}").json()["state"] == "running"


def test_revoked_key(module_hearth):
    key = module_hearth.create_key("leaving")
    with module_hearth.client(api_key=key) as client:
        assert client.get("/v2/sandboxes").status_code == 200
        listed = module_hearth.run("key", "list").stdout
        row = next(line for line in listed.splitlines() if "leaving" in line)
        assert key not in listed
        module_hearth.run("key", "revoke", row.split()[0])
        # A running daemon remembers a key it has verified for some seconds.
        until(lambda: client.get("/v2/sandboxes").status_code == 401, "the key to be refused")
        assert_error(client.get("/v2/sandboxes"), 401)


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=-1",
        "limit=101",
        "limit=many",
        "nextToken=nonsense",
        "state=flying",
        "order=sideways",
        "startedAfter=yesterday",
        "template=base:tag:tag",
    ],
)
def test_malformed_listings(api, query):
    assert_error(api.get(f"/v2/sandboxes?{query}"), 400)


def test_the_two_creates_have_their_own_defaults(api):
    lifetimes = {}
    for path in CREATE_PATHS:
        created = api.post(path, json={"templateID": "base"})
        assert created.status_code == 201, created.text
        body = created.json()
        assert body["envdAccessToken"] and body["domain"] and body["clientID"] == "6532622b"
        info = api.get(f"/sandboxes/{body['sandboxID']}").json()
        lifetimes[path] = seconds(info["endAt"]) - seconds(info["startedAt"])
        api.delete(f"/sandboxes/{body['sandboxID']}")
    assert lifetimes["/sandboxes"] == pytest.approx(15, abs=3)
    assert lifetimes["/v2/sandboxes"] == pytest.approx(300, abs=10)


def seconds(text: str) -> float:
    import datetime

    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def test_refreshing_only_extends(api, sandbox_id):
    def ends() -> float:
        return seconds(api.get(f"/sandboxes/{sandbox_id}").json()["endAt"])

    before = ends()
    assert api.post(f"/sandboxes/{sandbox_id}/refreshes", json={"duration": 15}).status_code == 204
    assert ends() == pytest.approx(before, abs=1)
    assert api.post(f"/sandboxes/{sandbox_id}/refreshes", json={"duration": 900}).status_code == 204
    assert ends() > before + 600
    assert_error(api.post(f"/sandboxes/{sandbox_id}/refreshes", json={"duration": 3601}), 400)
    assert_error(api.post(f"/sandboxes/{sandbox_id}/refreshes", json={"duration": -1}), 400)


def test_repeated_create_with_a_key_makes_one_sandbox(api, module_hearth):
    body = {"templateID": "base", "timeout": 120, "metadata": {"once": uuid.uuid4().hex}}
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    first = api.post("/v2/sandboxes", json=body, headers=headers)
    assert first.status_code == 201, first.text
    again = api.post("/v2/sandboxes", json=body, headers=headers)
    assert again.status_code == 201, again.text
    assert again.json() == first.json()
    changed = api.post("/v2/sandboxes", json={**body, "timeout": 121}, headers=headers)
    assert changed.status_code in (409, 422), changed.text
    assert changed.json()["error_code"] == "idempotency_request_mismatch"
    found = api.get("/v2/sandboxes", params={"metadata": f"once={body['metadata']['once']}"}).json()
    assert [item["sandboxID"] for item in found] == [first.json()["sandboxID"]]
    api.delete(f"/sandboxes/{first.json()['sandboxID']}")


@pytest.mark.parametrize("key", ["", "UPPER", "with space", "x" * 256])
def test_malformed_idempotency_keys(api, key):
    response = api.post(
        "/v2/sandboxes", json={"templateID": "base"}, headers={"Idempotency-Key": key}
    )
    assert_error(response, 400)


def test_the_old_list_knows_running_sandboxes(api, sandbox_id):
    listed = {item["sandboxID"]: item for item in api.get("/sandboxes").json()}
    assert listed[sandbox_id]["state"] == "running"
    assert listed[sandbox_id]["alias"] == "base"


def test_wrong_methods_and_types_do_not_harm(api, module_hearth):
    for method, path in (("PUT", "/v2/sandboxes"), ("PATCH", "/sandboxes"), ("DELETE", "/health")):
        assert api.request(method, path).status_code in (404, 405)
    assert httpx.get(f"{module_hearth.url}/health").is_success
