"""What holds for every input."""

from hypothesis import given, settings
from hypothesis import strategies as st
from maestro_orchestration_core import (
    Budget,
    Ledger,
    Plan,
    Price,
    Task,
    Usage,
    Window,
    errors,
)
from maestro_orchestration_core._context import (
    drop_tool_results,
    message_tokens,
    sliding,
    summarise,
)

AMOUNT = st.integers(0, 50)


@given(
    limit=st.integers(1, 200),
    calls=st.lists(st.tuples(AMOUNT, st.integers(0, 100), st.booleans()), max_size=40),
)
@settings(derandomize=True, max_examples=200, deadline=None)
def test_a_hard_limit_holds_in_any_order_of_calls(limit, calls):
    """Whatever overlaps, what is spent stays within the limit."""
    ledger = Ledger(Budget(tokens=limit, mode="hard"))
    open_calls, spent = [], 0
    for most, share, finish in calls:
        try:
            held = ledger.reserve(("run",), {"tokens": most})
            open_calls.append((held, most * share // 100))
        except errors.BudgetExceededError:
            assert (
                sum(r.amounts["tokens"] for r, _ in open_calls) + spent + most > limit
            )
        if finish and open_calls:
            held, real = open_calls.pop(0)
            ledger.settle(held, {"tokens": real})
            spent += real
        assert spent <= limit


@given(st.data())
@settings(derandomize=True, max_examples=150, deadline=None)
def test_a_conversation_is_shortened_without_splitting_a_pair(data):
    """Either it fits with every result after its call, or it is refused."""
    messages, number = [], 0
    for kind in data.draw(st.lists(st.sampled_from("suatt"), max_size=25)):
        words = "word " * data.draw(st.integers(1, 60))
        if kind != "t":
            role = {"s": "system", "u": "user", "a": "assistant"}[kind]
            messages.append({"role": role, "content": words})
            continue
        number += 1
        call = {"id": str(number), "function": {"name": "f", "arguments": {}}}
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": str(number), "content": words})
    keep = data.draw(st.integers(1, 5))
    strategy = data.draw(
        st.sampled_from(
            [sliding(keep_last=keep), drop_tool_results(keep_last=keep),
             summarise(lambda text: "short", keep_last=keep)]
        )
    )  # fmt: skip
    limit = data.draw(st.integers(20, 800))
    try:
        fitted = Window(limit=limit, reserve_output=10, strategies=[strategy]).fit(
            messages
        )
    except errors.ContextOverflowError:
        return
    assert message_tokens(fitted) <= limit - 10
    called = set()
    for message in fitted:
        called |= {c["id"] for c in message.get("tool_calls", ())}
        assert message["role"] != "tool" or message["tool_call_id"] in called
    if messages:
        assert fitted[-1]["role"] == messages[-1]["role"]


@given(st.integers(0, 10**9), st.integers(0, 10**6), st.integers(0, 10**6))
@settings(derandomize=True, deadline=None)
def test_a_cost_is_never_rounded_to_less(rate, used, said):
    """Micro-dollars are at least the exact price, and less than one more."""
    price = Price(input=f"{rate / 1e6:.6f}", output=f"{rate / 1e6:.6f}")
    exact = rate * (used + said)  # in millionths of a micro-dollar
    cost = price.cost_micro(Usage(input_tokens=used, output_tokens=said))
    assert 0 <= cost * 10**6 - exact < 10**6


@given(st.lists(st.integers(0, 8), min_size=1, max_size=12), st.integers(1, 6))
@settings(derandomize=True, deadline=None)
def test_levels_follow_needs_and_the_bound_is_honest(picks, workers):
    """Nobody is in a tier at or before that of what it waits for."""
    tasks = [
        Task(f"t{n}", after=sorted({f"t{p}" for p in (pick, pick // 2) if p < n}))
        for n, pick in enumerate(picks)
    ]
    plan = Plan(tasks)
    for task in tasks:
        assert all(plan.level[a] < plan.level[task.name] for a in task.after)
    assert plan.forecast(workers).bound >= len(tasks) / workers
