# SPDX-License-Identifier: LGPL-2.1-or-later
"""
rules.py: what must hold after a repair of a damaged image whose sound state is known. Each rule is a generator that yields
(class, sentence) for what does not hold.

freed, lowered    A cluster of the sound image has refcount 0 afterwards, or a lower one than in the sound image (two disks share
                  it, and the next write to one would hit the other's data too). Apart are refcount structures and the
                  snapshot table, which may be made anew elsewhere.
snapshot, bitmap  One that the sound image has is gone afterwards, and it is the repair that took it (snapshots_lost, below).
                  For these, a row of the report that says data loss is an excuse (excused, below).
guest             What is read afterwards, of the active disk and of each snapshot, is cluster by cluster what was read of the
                  damaged image or of the sound one.
calm              Where what is read afterwards differs from the sound image (a snapshot that is not in the list counts), the
                  report is not calm. It is calm where its verdict is clean, or its verdict is repaired, it names no affected
                  range of the disk and no affected snapshot, and the text says that nothing needs to be done.
words             Where what is read of the active disk differs, the text does not say that no damage reaches the data.

A damage may turn one sound image into another sound image (two L2 entries swapped, a zero flag set): nobody can see it. So calm
and words do not count where qemu-img finds the damaged image clean; the caller asks it, and counts that as skipped.
"""
from guest import ACTIVE, differences

NO_DAMAGE = 'no damage reaches the data of the guest'
NOTHING_TO_DO = 'nothing needs to be done'
# Rows that say of something that it is worth nothing any more, and what of.
STALE = {'bitmaps-stale': 'bitmap', 'bitmaps-stale-v2': 'bitmap'}


def excused(report):
    """
    What may be given up, of {'snapshot', 'bitmap'}: what a row of the report says is lost. Here alone is decided which rows do;
    were the problem table to mark them, it would be read here. Rows of what lies behind a limit of the format (snapshot-dropped,
    snapshot-dropped-bytes) excuse nothing: no image of this suite comes near a limit, so where they are met they are not true.
    """
    return {STALE[problem['id']] for problem in report.get('problems', []) if problem['id'] in STALE}


# ---- nothing is given up -----------------------------------------------------------------------------------


def bitmap_clusters(sound):
    parts, found = sound.parts, sound.parts.clusters_of('bitmap')
    for bitmap in parts.bitmaps():
        found |= {word // parts.cs for word in parts.words(bitmap.table_offset, bitmap.table_entries) if word >= parts.cs}
    return found


def clusters_kept(sound, after, report):
    apart = sound.replaceable | (bitmap_clusters(sound) if 'bitmap' in excused(report) else set())
    now = after.refcounts()
    kept = {cluster: count for cluster, count in sound.refcounts.items() if cluster not in apart}
    freed = [cluster for cluster in kept if not now.get(cluster)]
    lowered = [cluster for cluster, count in kept.items() if 0 < now.get(cluster, 0) < count]
    if freed:
        yield 'freed', f'{len(freed)} clusters in use were freed: {shortened(freed)}'
    if lowered:
        yield 'lowered', f'{len(lowered)} clusters have fewer references than users: {shortened(lowered)}'


def shortened(numbers):
    return ' '.join(map(str, sorted(numbers)[:8])) + ' ...' * (len(numbers) > 8)


def snapshots_lost(sound, before, after):
    """
    Snapshots of the sound image that the repair took. One that is not in the list is none of them where the repair has touched
    neither the list nor what the header says of it: then the damage took it, and a tool that knows better can still find it. A
    name that the damage has changed is looked for as it was changed.
    """
    size = max([snapshot.end for snapshot in sound.parts.snapshots()], default=0)
    where = slice(sound.parts.snapshots_offset, size)
    if before.data[60:72] == after.data[60:72] and before.data[where] == after.data[where]:
        return []
    listed = {(snapshot.id, snapshot.name) for snapshot in after.snapshots()}
    lost = []
    for snapshot in sound.parts.snapshots():
        text = before.read(snapshot.text, snapshot.end - snapshot.text)
        changed = text[:len(snapshot.id)], text[len(snapshot.id):]
        if not listed & {(snapshot.id, snapshot.name), changed}:
            lost.append(snapshot.name.decode())
    return lost


def names_kept(sound, before, after, report):
    excuse = excused(report)
    lost = snapshots_lost(sound, before, after)
    if lost and 'snapshot' not in excuse:
        yield 'snapshot', f'the repair took the snapshots {" ".join(lost)}'
    gone = {bitmap.name for bitmap in sound.parts.bitmaps()} & {bitmap.name for bitmap in before.bitmaps()}
    gone -= {bitmap.name for bitmap in after.bitmaps()}
    if gone and 'bitmap' not in excuse:
        yield 'bitmap', f'the repair took the bitmaps {b" ".join(sorted(gone)).decode()}'


# ---- what is read, and what is said of it ------------------------------------------------------------------


def guest_kept(sound, before, after):
    """before, after: views of the damaged image and of the repaired one."""
    for disk, at in differences(sound.view, after):
        if disk not in before.disks or before.disks[disk].get(at) != after.disks[disk].get(at):
            yield 'guest', f'{shown(disk)} reads at {at if isinstance(at, str) else hex(at)} what it never read'
            return


def shown(disk):
    return disk if disk == ACTIVE else f'snapshot {disk[1].decode(errors="replace")}'


def is_calm(report, text):
    quiet = not any(report.get(key) for key in ('guest-ranges-affected', 'guest-bytes-affected', 'snapshots-affected'))
    return report.get('verdict') == 'clean' or report.get('verdict') == 'repaired' and quiet and NOTHING_TO_DO in text


def not_calm(sound, after, report, text):
    """after: the view of the image as it now is, whether or not it was changed."""
    missing = sound.view.disks.keys() - after.disks.keys()
    differing = differences(sound.view, after)
    if is_calm(report, text) and (missing or differing):
        what = f'{shown(sorted(missing, key=str)[0])} is missing' if missing else f'{shown(differing[0][0])} reads something else'
        yield 'calm', f'{what} in {len(differing)} clusters, and the verdict is {report.get("verdict")}'
    elif NO_DAMAGE in text and any(disk == ACTIVE for disk, _ in differing):
        yield 'words', f'the active disk reads something else, and the report ({report.get("verdict")}) says that {NO_DAMAGE}'
