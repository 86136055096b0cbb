"""Health, metrics, the description and its page."""

import httpx

from tests.contract.client import Api, Person, eventually


async def metric(api: Api, name: str, **labels: str) -> float:
    """The value of one sample, 0 when it is not there yet."""
    response = await api.call("GET", "/metrics")
    for line in response.text.splitlines():
        sample, _, value = line.rpartition(" ")
        if sample.startswith(name + "{") and all(f'{k}="{v}"' in sample for k, v in labels.items()):
            return float(value)
    return 0.0


async def test_health(api: Api):
    live = await api.call("GET", "/health/live")
    assert (live.status_code, live.json()["status"]) == (200, "ok")
    ready = await api.call("GET", "/health/ready")
    assert ready.status_code == 200
    assert ready.json()["parts"] == dict.fromkeys(("postgres", "valkey", "gate", "worker"), "ok")
    for path in ("/health/live", "/health/ready"):
        head = await api.call("HEAD", path)
        assert (head.status_code, head.content) == (200, b"")


async def test_metrics_are_for_this_machine_only(api: Api):
    response = await api.call("GET", "/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    assert "# TYPE korder_http_requests_total counter" in response.text
    for name in ("X-Forwarded-For", "Forwarded", "X-Real-Ip"):
        for value in ("203.0.113.7", "127.0.0.1", ""):
            await api.refused(404, "not_found", "GET", "/metrics", headers={name: value})


async def test_the_cache_hit_rate_is_a_metric(api: Api, organizer: Person):
    event = await api.on_sale(organizer)
    paths = {
        "event": f"/v1/events/{event['id']}",
        "availability": f"/v1/events/{event['id']}/availability",
    }
    for cache, path in paths.items():
        before = [
            await metric(api, "korder_cache_lookups_total", cache=cache, result=r)
            for r in ("hit", "miss")
        ]
        for _ in range(20):
            await api.ok("GET", path)

        async def moved(cache: str = cache, before: list[float] = before):
            now = [
                await metric(api, "korder_cache_lookups_total", cache=cache, result=r)
                for r in ("hit", "miss")
            ]
            return [after - then for after, then in zip(now, before, strict=True)]

        await eventually(moved, lambda found: found[0] >= 10 and found[1] >= 1, 5)


async def test_answers_are_counted_by_route_not_by_path(api: Api):
    for n in range(3):
        await api.refused(404, "not_found", "GET", f"/v1/nowhere-{n}")
    counted = await eventually(
        lambda: api.call("GET", "/metrics"),
        lambda found: 'status="404"' in found.text,
    )
    assert "nowhere" not in counted.text


async def test_the_page(api: Api):
    response = await api.call("GET", "/docs")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "<script" not in response.text
    for path in ("/v1/reservations", "/v1/auth/signup", "/v1/events/{event_id}/availability"):
        assert path in response.text


async def test_identity_headers_are_not_believed(api: Api, member, admin):
    forged = {"X-User-Id": admin.id, "X-Roles": "admin", "X-Forwarded-User": admin.id}
    await api.refused(401, "unauthenticated", "GET", "/v1/users/me", headers=forged)
    await api.refused(401, "unauthenticated", "POST", "/v1/reservations", {}, headers=forged)
    await api.refused(403, "forbidden", "GET", "/v1/users", by=member, headers=forged)
    me = await api.ok("GET", "/v1/users/me", by=member, headers=forged)
    assert me["id"] == member.id


async def test_the_server_says_nothing_of_its_make(api: Api):
    response: httpx.Response = await api.call("GET", "/health/live")
    assert "server" not in response.headers
