import time

from serving.ids import new_id, new_ids


def test_ids_are_uuids_of_version_7_and_sort_by_time() -> None:
    first = new_id()
    time.sleep(0.002)
    assert first < new_id()
    assert len(first) == 32
    assert first[12] == "7"
    assert first[16] in "89ab"
    assert abs(int(first[:12], 16) / 1000 - time.time()) < 60
    assert len({new_id() for _ in range(10_000)}) == 10_000
    several = new_ids(300)
    assert several == sorted(set(several))
    assert {(one[12], one[16] in "89ab") for one in several} == {("7", True)}
