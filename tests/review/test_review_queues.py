"""Which sample comes next, for whom, and what is said when nothing is left."""

import pytest
from review_run import INPAINTING, MASK, write_run

from l2i_builder.judgements import Judgement
from l2i_builder.labels import LabelStore
from l2i_builder.review.board import Board
from l2i_builder.review.queues import LEASE, NEAREST, Queues
from l2i_builder.review.samples import Samples


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """Queues over a run, and reviewers who judge what they get."""

    def __init__(self, out: str, folder) -> None:
        self.samples = Samples(out)
        self.samples.open()
        self.board = Board(LabelStore(folder / "labels.sqlite"), self.samples.run.digest)
        self.clock = Clock()
        self.queues = Queues(self.samples, self.board, self.clock)

    def judge(self, sample, reviewer="ada", queue="audit", **fields) -> None:
        said = fields or {"mask": "good"}
        self.board.add(Judgement(sample.key, reviewer, queue=queue, run=self.samples.run.digest, **said))

    def take(self, queue="audit", reviewer="ada", count=10_000, have=()):
        return self.queues.take(queue, reviewer, count, have)


@pytest.fixture
def desk(run, tmp_path):
    return Desk(run, tmp_path)


class TestAudit:
    def test_it_has_every_judged_row_of_the_audit_slice_kept_and_rejected(self, desk):
        shown = desk.take()
        assert {one.key for one in shown} == {
            one.key for one in desk.samples.by_key.values() if one.audit and one.mask_score != -1
        }
        assert {one.reason for one in shown} == {"", "mask_rejected", "inpainting_rejected"}

    def test_its_order_is_fixed_and_says_nothing_of_shard_or_verdict(self, desk, run, tmp_path_factory):
        keys = [one.key for one in desk.take()]
        again = Desk(run, tmp_path_factory.mktemp("again"))
        assert [one.key for one in again.take(reviewer="bob")] == keys
        shards = [one.shard for one in again.take(reviewer="bob")]
        assert shards != sorted(shards)

    def test_weights_are_one_over_the_audit_rate(self, desk):
        assert {desk.queues.weight(one, "audit") for one in desk.take()} == {4.0}

    def test_no_other_queue_gives_a_weight(self, desk):
        for name in ("uncertain", "second", "reason:mask_rejected"):
            assert desk.queues.weight(desk.take()[0], name) == 0.0

    def test_a_sample_of_which_only_the_preview_is_left_has_no_weight(self, desk):
        from dataclasses import replace

        assert desk.queues.weight(replace(desk.take()[0], folder="previews"), "audit") == 0.0

    def test_what_was_judged_in_another_queue_is_still_open(self, desk):
        first = desk.take(count=1)[0]
        desk.judge(first, queue="uncertain")
        assert desk.take(count=1)[0] == first
        desk.judge(first)
        assert desk.take(count=1)[0] != first


class TestOtherQueues:
    def test_uncertain_is_ordered_by_the_distance_to_a_threshold(self, desk):
        def distance(one) -> float:
            scores = ((one.mask_score, MASK), (one.inpainting_score, INPAINTING))
            return min(abs(score - limit) for score, limit in scores if score != -1)

        distances = [distance(one) for one in desk.take("uncertain")]
        assert distances == sorted(distances)
        assert 40 < len(distances) <= NEAREST

    def test_there_is_a_queue_for_every_reason_with_pictures(self, desk):
        names = [name for name in desk.queues.names() if name.startswith("reason:")]
        assert set(names) == {"reason:mask_rejected", "reason:inpainting_rejected", "reason:mask_empty"}
        for name in names:
            assert {one.reason for one in desk.take(name)} == {name.removeprefix("reason:")}

    def test_second_opinion_is_what_others_judged_and_the_reviewer_did_not(self, desk):
        first, second, third = desk.take(count=3)
        desk.judge(first)
        desk.judge(second, skipped=True)
        desk.judge(third)
        desk.judge(third, "bob")
        assert desk.take("second") == []
        assert desk.take("second", "bob") == [first]
        assert {one.key for one in desk.take("second", "eve")} == {first.key, third.key}

    def test_an_unknown_queue_is_a_key_error(self, desk):
        for name in ("reason:nothing", "../audit", ""):
            with pytest.raises(KeyError):
                desk.take(name)

    def test_only_the_audit_is_strict_about_what_it_holds(self, desk):
        kept = next(one for one in desk.samples.by_key.values() if not one.reason and not one.audit)
        assert not desk.queues.holds("audit", kept.key)
        for name in ("uncertain", "second", "reason:mask_empty"):
            assert desk.queues.holds(name, kept.key)
        assert not desk.queues.holds("nothing", kept.key)


class TestSeveralReviewers:
    def test_nobody_gets_what_another_has_on_the_screen(self, desk):
        mine, theirs = desk.take(count=4), desk.take(reviewer="bob", count=4)
        assert not {one.key for one in mine} & {one.key for one in theirs}

    def test_what_somebody_left_comes_back_after_a_while(self, desk):
        mine = desk.take(count=4)
        desk.clock.now += LEASE + 1
        assert desk.take(reviewer="bob", count=4) == mine

    def test_what_is_held_stays_held_and_is_not_given_twice(self, desk):
        mine = desk.take(count=4)
        desk.clock.now += LEASE - 1
        more = desk.take(count=2, have=[one.key for one in mine])
        assert not {one.key for one in more} & {one.key for one in mine}
        desk.clock.now += 2
        assert not {one.key for one in desk.take(reviewer="bob")} & {one.key for one in mine}

    def test_leaving_a_queue_gives_its_samples_back(self, desk):
        mine = desk.take(count=4)
        desk.queues.release("ada", keep=[mine[0].key])
        assert desk.take(reviewer="bob", count=3) == mine[1:]

    def test_a_judgement_of_another_process_counts(self, desk, tmp_path):
        first = desk.take(count=1)[0]
        with LabelStore(tmp_path / "labels.sqlite") as other:
            other.add(Judgement(first.key, "bob", mask="bad", queue="audit", run=desk.samples.run.digest))
        desk.board.catch_up()
        assert first not in desk.take()

    def test_judgements_of_another_run_do_not(self, desk):
        first = desk.take(count=1)[0]
        desk.board.add(Judgement(first.key, "bob", mask="bad", queue="audit", run="another"))
        assert desk.take(count=1)[0] == first


class TestProgress:
    def test_it_counts_what_is_judged_by_all_by_me_and_skipped(self, desk):
        first, second, third, *rest = desk.take()
        desk.judge(first)
        desk.judge(second, "bob")
        desk.judge(third, skipped=True)
        progress = desk.queues.progress("audit", "ada")
        assert (progress.total, progress.done, progress.mine, progress.skipped) == (len(rest) + 3, 2, 1, 1)
        assert progress.empty == ""
        assert third not in desk.take()
        desk.queues.settle(third.key)
        assert desk.take(reviewer="bob") == [third]

    def test_undo_opens_the_sample_again(self, desk):
        first = desk.take(count=1)[0]
        desk.judge(first)
        desk.board.undo("ada", "u1")
        assert desk.take(count=1)[0] == first
        assert desk.queues.progress("audit", "ada").done == 0

    def test_of_second_opinions_only_ones_own_count_as_done(self, desk):
        first, second = desk.take(count=2)
        desk.judge(first)
        desk.judge(second)
        desk.judge(first, "bob")
        progress = desk.queues.progress("second", "bob")
        assert (progress.total, progress.done) == (2, 1)


class TestEmpty:
    def test_when_all_is_judged_it_says_what_is_next(self, desk):
        for sample in desk.take():
            desk.judge(sample)
        assert "second opinions" in desk.queues.progress("audit", "ada").empty

    def test_when_the_rest_is_skipped_it_says_how_to_get_it_back(self, desk):
        for sample in desk.take():
            desk.judge(sample, skipped=True)
        assert "Undo" in desk.queues.progress("audit", "ada").empty

    def test_without_second_opinions_it_says_how_to_get_some(self, desk):
        assert "colleague" in desk.queues.progress("second", "ada").empty

    @pytest.mark.parametrize(
        ("keys", "queue", "says"),
        [
            ({"audit_rate": 0.0}, "audit", "ingest.audit_rate=0.01"),
            ({"finished": 0}, "audit", "No shard of this run is finished yet"),
            ({"finished": 0}, "uncertain", "No shard of this run is finished yet"),
            ({"judges": False}, "uncertain", "judges of this run are off"),
            ({"rows": 3, "audit_rate": 0.0001}, "audit", "higher ingest.audit_rate"),
        ],
    )
    def test_a_run_that_has_nothing_for_a_queue_says_why(self, tmp_path, keys, queue, says):
        write_run(str(tmp_path / "out"), **({"shards": 1} | keys))
        desk = Desk(str(tmp_path / "out"), tmp_path)
        assert desk.take(queue) == []
        assert says in desk.queues.progress(queue, "ada").empty

    def test_a_run_without_judges_still_has_its_audit(self, tmp_path):
        write_run(str(tmp_path / "out"), judges=False)
        desk = Desk(str(tmp_path / "out"), tmp_path)
        assert {desk.queues.weight(one, "audit") for one in desk.take()} == {4.0}
