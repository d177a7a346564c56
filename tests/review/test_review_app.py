"""What the review app answers: samples, judgements that know their scores, undo, agreement."""

import io

import pyarrow.parquet as pq
import pytest
from review_run import write_run
from review_server import serving

from l2i_builder.judgements import from_table
from l2i_builder.labels import read_labels


def new_id(number: int) -> str:
    return f"{number:032x}"


def items(served, reviewer="ada", queue="audit", **fields):
    return served.json("POST", "/api/next", {"reviewer": reviewer, "queue": queue, **fields})["items"]


def judge(served, number, key, reviewer="ada", queue="audit", **said):
    body = {"id": new_id(number), "reviewer": reviewer, "queue": queue, "key": key, **(said or {"mask": "good"})}
    return served.json("POST", "/api/judge", body)


def test_a_judgement_knows_queue_weight_scores_and_heads_from_the_run_not_from_the_browser(served):
    first = items(served)[0]
    judge(
        served, 1, first["key"], mask="bad", inpainting="good", criteria=["incomplete", "incomplete"],
        mask_score=1.0, weight=99.0, run="forged", time=5, shard=77,
    )  # fmt: skip
    (row,) = from_table(read_labels(str(served.store.path)))
    sample = served.samples.by_key[first["key"]]
    assert (row.mask, row.inpainting, row.criteria) == ("bad", "good", ("incomplete",))
    assert (row.mask_head, row.inpainting_head) == ("mask-v7", "inpainting-v7")
    assert row.mask_score == pytest.approx(sample.mask_score)
    assert row.inpainting_score == pytest.approx(sample.inpainting_score)
    assert (row.queue, row.weight, row.shard) == ("audit", 4.0, sample.shard)
    assert row.run == served.samples.run.digest
    assert row.time > 1_600_000_000_000


def test_the_same_judgement_sent_twice_is_stored_once(served):
    key = items(served)[0]["key"]
    assert judge(served, 1, key)["saved"] == judge(served, 1, key)["saved"] == new_id(1)
    assert len(served.store.table()) == 1


def test_samples_come_in_order_and_those_at_hand_are_not_sent_again(served):
    first = items(served)
    have = [one["key"] for one in first[4:]]
    for number, one in enumerate(first[:4]):
        judge(served, number, one["key"])
    more = items(served, have=have)
    assert len(first) == 12
    assert not {one["key"] for one in first} & {one["key"] for one in more}
    assert 0 < len(more) <= 4


def test_progress_comes_with_every_answer(served):
    shown = items(served)
    progress = judge(served, 1, shown[0]["key"])["progress"]
    assert (progress["done"], progress["mine"]) == (1, 1)
    state = served.json("GET", "/api/state?reviewer=bob")
    audit = next(queue for queue in state["queues"] if queue["name"] == "audit")
    assert (audit["done"], audit["mine"]) == (1, 0)


def test_undo_gives_the_sample_back_with_what_was_said(served):
    key = items(served)[0]["key"]
    judge(served, 1, key, mask="bad", criteria=["too_small"])
    body = {"id": new_id(2), "reviewer": "ada"}
    answer = served.json("POST", "/api/undo", body)
    assert (answer["item"]["key"], answer["queue"]) == (key, "audit")
    assert answer["was"] == {"mask": "bad", "inpainting": "", "criteria": ["too_small"]}
    assert served.json("POST", "/api/undo", body)["item"]["key"] == key
    assert served.json("POST", "/api/undo", {"id": new_id(3), "reviewer": "ada"})["item"] is None
    assert len(served.store.table()) == 2


def test_nobody_undoes_for_another(served):
    judge(served, 1, items(served)[0]["key"])
    assert served.json("POST", "/api/undo", {"id": new_id(2), "reviewer": "bob"})["item"] is None


def test_agreement_is_told_once_two_have_judged_the_same(served):
    shown = items(served)[:4]
    for number, one in enumerate(shown):
        judge(served, number, one["key"], mask="good" if number % 2 else "bad")
    assert served.json("GET", "/api/state?reviewer=ada")["agreement"]["mask"] == {
        "n": 0, "agreement": None, "kappa": None, "pairs": [],
    }  # fmt: skip
    for number, one in enumerate(items(served, "bob", "second")):
        judge(served, 100 + number, one["key"], "bob", "second", mask=["bad", "good"][shown.index(one) % 2])
    found = served.json("GET", "/api/state?reviewer=ada")["agreement"]["mask"]
    assert (found["n"], found["agreement"], found["kappa"]) == (4, 1.0, 1.0)


def test_the_inpainting_of_what_was_never_inpainted_cannot_be_judged(served):
    one = next(one for one in items(served, queue="reason:mask_rejected") if not one["inpainted"])
    body = {"id": new_id(1), "reviewer": "ada", "queue": "reason:mask_rejected", "key": one["key"]}
    answer, told = served.ask("POST", "/api/judge", body | {"inpainting": "bad"})
    assert answer.status == 400
    assert b"never inpainted" in told
    served.json("POST", "/api/judge", body | {"mask": "bad"})


def test_a_sample_cannot_be_passed_off_as_one_of_the_audit(served):
    key = next(one.key for one in served.samples.by_key.values() if not one.audit)
    body = {"id": new_id(1), "reviewer": "ada", "queue": "audit", "key": key, "mask": "good"}
    assert served.ask("POST", "/api/judge", body)[0].status == 400
    assert len(served.store.table()) == 0


def test_texts_of_strangers_are_made_visible(served):
    every = [one for name in ("uncertain", "reason:mask_empty") for one in items(served, queue=name)]
    for one in every:
        for name in ("caption", "url", "detail"):
            assert not set(one[name]) & set("\x00\x1b\u202e\u202c\ufeff\n")
            assert len(one[name]) < 700


def test_pictures_are_those_of_the_tar(served):
    for sample in list(served.samples.by_key.values())[:6]:
        layer = "background" if sample.full else "strip"
        _, body = served.ask("GET", f"/image/{sample.key}/{layer}")
        assert body == served.samples.read(sample, layer)[0]


def test_a_run_in_an_object_store_is_judged_like_any_other(tmp_path):
    write_run("memory://review-app/out", shards=1)
    with serving("memory://review-app/out", tmp_path) as served:
        first = items(served)[0]
        answer, picture = served.ask("GET", f"/image/{first['key']}/background")
        assert (answer.status, picture[:2]) == (200, b"\xff\xd8")
        judge(served, 1, first["key"])
        assert len(served.store.table()) == 1


def test_all_judgements_can_be_downloaded(served):
    judge(served, 1, items(served)[0]["key"])
    _, body = served.ask("GET", "/labels.parquet")
    assert pq.read_table(io.BytesIO(body)) == served.store.table()


def test_a_queue_that_is_not_there_is_not_found(served):
    answer, _ = served.ask("POST", "/api/next", {"reviewer": "ada", "queue": "reason:gone"})
    assert answer.status == 404


def test_the_last_samples_on_anothers_screen_are_told(served):
    assert items(served, queue="reason:mask_empty")
    answer = served.json("POST", "/api/next", {"reviewer": "bob", "queue": "reason:mask_empty", "opened": True})
    assert answer["items"] == []
    assert "other reviewers' screens" in answer["progress"]["empty"]
    served.json("POST", "/api/release", {"reviewer": "ada"})
    assert items(served, "bob", "reason:mask_empty")
