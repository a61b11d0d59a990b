"""The two halves of stripe_peer.sh.

serve: localstripe on a free port of 127.0.0.1, which is printed.
check BAILIWICK PEER: buys credits with the cards that the peer knows, and hears what it tells.
"""
import json, sys, time, urllib.error, urllib.parse, urllib.request

SERVICE = "the-service-token-of-the-script"
WELCOME, TOKENS, CENTS = 5_000, 5_000, 500


def serve():
    import asyncio
    from aiohttp import web
    from localstripe.server import app

    async def run():
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print(site._server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Event().wait()

    asyncio.run(run())


def call(method, url, body=None, headers=None, form=None):
    headers = dict(headers or {})
    data = None
    if form is not None:
        data = urllib.parse.urlencode(form).encode()
    elif body is not None:
        data, headers["content-type"] = json.dumps(body).encode(), "application/json"
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"{}")


def check(server, peer):
    key = {"authorization": "Bearer sk_test_of_the_peer"}

    def at_peer(method, path, **form):
        status, answer = call(method, peer + path, headers=key, form=form if form else None)
        assert status == 200, (path, status, answer)
        return answer

    hook = {"url": server + "/v1/webhooks/stripe", "secret": "whsec_of_the_peer"}
    request = urllib.request.Request(
        peer + "/_config/webhooks/one", data=json.dumps(hook).encode(),
        headers={"content-type": "application/json"})
    urllib.request.urlopen(request, timeout=30).read()
    body = {"email": "ada@example.com", "password": "a long enough password"}
    status, tokens = call("POST", server + "/v1/auth/register", body, {"x-service-token": SERVICE})
    assert status == 201, tokens
    user = {"authorization": "Bearer " + tokens["access_token"]}

    def ours(method, path, expected, body=None):
        status, answer = call(method, server + path, body, user)
        assert status == expected, (path, status, answer)
        return answer

    def balance_becomes(wanted):
        for _ in range(300):
            balance = ours("GET", "/v1/billing/balance", 200)["balance"]
            if balance == wanted:
                return
            time.sleep(0.1)
        raise AssertionError(f"{balance} credits, not {wanted}")

    def add_card(number):
        method = at_peer("POST", "/v1/payment_methods", type="card", **{
            "card[number]": number, "card[exp_month]": "12", "card[exp_year]": "2040",
            "card[cvc]": "123"})["id"]
        at_peer("POST", f"/v1/payment_methods/{method}/attach", customer=customer)
        ours("PUT", f"/v1/billing/payment-methods/{method}/default", 200, {})
        return method

    order = {"tokens": TOKENS, "price_cents": CENTS, "off_session": True}
    assert ours("GET", "/v1/billing/topup-config", 200)["publishable_key"] == "pk_test_of_the_peer"
    secret = ours("POST", "/v1/billing/payment-methods/setup", 200, {})["client_secret"]
    customer = at_peer("GET", "/v1/setup_intents/" + secret.split("_secret_")[0])["customer"]
    refused = ours("POST", "/v1/billing/topup", 402, order)
    assert refused["error"] == "payment_method_required", refused

    card = add_card("4242424242424242")
    paid = ours("POST", "/v1/billing/topup", 200, order)
    assert paid["succeeded"] and not paid["requires_action"], paid
    balance_becomes(WELCOME + TOKENS)
    print("ok a kept card was charged and credited")

    add_card("4000000000000341")
    declined = ours("POST", "/v1/billing/topup", 402, order)
    assert declined["error"] == "payment_declined", declined
    print("ok a declined card credits nothing, by the code", declined["provider_code"])

    add_card("4000002500003155")
    asked = ours("POST", "/v1/billing/topup", 200, order)
    assert asked["requires_action"] and not asked["succeeded"], asked
    balance_becomes(WELCOME + TOKENS)
    intent = asked["payment_intent_id"]
    at_peer("POST", f"/v1/payment_intents/{intent}/_authenticate",
            client_secret=asked["client_secret"], success="true")
    balance_becomes(WELCOME + 2 * TOKENS)
    print("ok what its payer had to confirm was credited by the peer's own signed news")

    confirm = {"payment_intent_id": intent}
    for _ in range(3):
        status, answer = call(
            "POST", server + "/v1/billing/topup/confirm", confirm, {"x-service-token": SERVICE})
        assert status == 200 and answer["balance"] == WELCOME + 2 * TOKENS, answer
    print("ok confirming it again credits nothing twice")

    at_peer("POST", "/v1/refunds", payment_intent=intent, amount="100")
    status, answer = call(
        "POST", server + "/v1/billing/topup/confirm", confirm, {"x-service-token": SERVICE})
    assert answer["status"] == "partially_refunded", answer
    balance_becomes(WELCOME + 2 * TOKENS - 1_000)
    print("ok what went back was taken")

    listed = ours("GET", "/v1/billing/payment-methods", 200)
    assert len(listed) == 3 and sum(method["is_default"] for method in listed) == 1, listed
    ours("DELETE", f"/v1/billing/payment-methods/{card}", 200)
    assert len(ours("GET", "/v1/billing/payment-methods", 200)) == 2
    payments = ours("GET", "/v1/billing/payments", 200)
    statuses = [payment["status"] for payment in payments]
    assert statuses == ["partially_refunded", "failed", "succeeded"], payments
    print("ok methods and payments are listed as the peer has them")


if sys.argv[1] == "serve":
    serve()
else:
    check(*sys.argv[2:4])
