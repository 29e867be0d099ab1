from container.images.children import spawn_local
from container.images.durability import Durability
from container.images.service import Images
from container.images.store import ImageStore
from unit.container.images.test_store import L1, L2, TOP, A, B, config


def test_a_note_of_this_boot_is_no_reason_to_worry(tmp_path):
    Durability(tmp_path, "now").note([L1])
    assert Durability(tmp_path, "now").torn() == set()
    assert Durability(tmp_path, "later").torn() == {L1}


async def test_a_synced_layer_survives_the_next_boot(tmp_path):
    ImageStore(tmp_path)
    durability = Durability(tmp_path)
    durability.note([L1])
    durability.note([L2])
    durability.sync_soon([L1])
    await durability.settle()
    assert Durability(tmp_path, "later").torn() == {L2}


def test_without_a_note_nothing_is_torn(tmp_path):
    assert Durability(tmp_path).torn() == set()
    (tmp_path / "unsynced.json").write_text("{torn")
    assert Durability(tmp_path).torn() == set()


async def test_images_that_a_power_loss_may_have_torn_are_gone_after_recovery(tmp_path):
    store = ImageStore(tmp_path)
    for layer in (L1, L2):
        store.layer_path(layer).mkdir()
    store.add("torn", A, TOP, 1, config(L1))
    store.add("whole", B, TOP, 1, config(L2))
    Durability(tmp_path, "before the crash").note([L1])
    images = Images(tmp_path, tmp_path / "b.sock", spawn_local)
    await images.recover(used_layers={L1, L2})
    assert [image.id for image in images.list()] == [B]
    assert not store.has_layer(L1)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix) == [f"{'b' * 64}.json", "names.json"]
