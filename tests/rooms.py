# SPDX-License-Identifier: LGPL-2.1-or-later
"""rooms.py: what the gate holds of the rooms: folders of C with one header each, and who may include whom.

The table of rooms and allowed edges is the one in docs/architecture.md ("Rooms"), so that it cannot say anything else than the tree.
An edge is a file of one room that includes a header of another.
"""

import os
import re

HEADER_LINES = 200
TREES = ("guest/", "plugin/", "virsh-ext/")
ROW = re.compile(r"^\| `([\w/-]+)/` \|[^|]*\| (.*?) \|$", re.M)
ROW_OR_PASS = re.compile(r"\bVR_P_(?!COUNT\b)[A-Z0-9_]+|\bVR_PASS_(?!COUNT\b|TIMED\b|OF_MAPS\b)[A-Z]+")
INCLUDE = re.compile(r'^#include "([^"]+)"', re.M)
# Headers beside the one of their room, each with its reason.
BESIDE = {
    "guest/core/io.h": "memory and bytes alone, without the context of a run",
    "guest/abi/vr_records.h": "a contract a header: there is no code in the room",
    "guest/abi/vr_problems.h": "the same",
    "plugin/proto/journal_format.h": "the same",
    "plugin/vmm/overlay.h": "the planned changes: what the journal and the commit read too",
    "plugin/vmm/guest_image.h": "of a file that is generated",
    "plugin/vmm/test_hooks.h": "what the program for tests has and the installed one has not",
    "plugin/client/client.h": "what the files of the library know of each other; vol-repair-client.h is the public one",
}
LONG = {"plugin/client/vol-repair-client.h": "the public header: its length is contract text"}


def table(page):
    """{room: rooms that it may include}"""
    return {room: set(re.findall(r"`([\w/-]+)/`", may)) for room, may in ROW.findall(page)}


def sources(paths):
    return [p for p in paths if p.startswith(TREES) and p.endswith((".c", ".h", ".S"))]


def edges(paths, read):
    """{(room, other room): a file that includes so}, and what could not be resolved"""
    headers = [p for p in paths if p.endswith((".h", ".def")) and p.startswith(TREES)]
    found, unknown = {}, []
    for path in sources(paths):
        room = os.path.dirname(path)
        for name in INCLUDE.findall(read(path)):
            where = [h for h in headers if h.endswith("/" + name)]
            where = [h for h in where if os.path.dirname(h) == room] or where
            # Of a header for each processor the build takes one.
            if len(where) != 1 and not (where and all("/arch/" in h for h in where)):
                unknown.append(f"{path}: includes {name}, of which there are {len(where)}")
                continue
            for other in {os.path.dirname(h) for h in where} - {room}:
                found.setdefault((room, other), path)
    return found, unknown


def circle(graph):
    """Rooms that include one another in a circle, or []."""
    done = set()

    def visit(room, way):
        if room in way:
            return way[way.index(room):] + [room]
        if room in done:
            return []
        for other in sorted(graph.get(room, ())):
            found = visit(other, way + [room])
            if found:
                return found
        done.add(room)
        return []

    return next((c for c in (visit(room, []) for room in sorted(graph)) if c), [])


def check(gate, paths, read):
    may = table(read("docs/architecture.md"))
    found, unknown = edges(paths, read)
    rooms = {os.path.dirname(p) for p in sources(paths)}
    for what in unknown:
        gate.need(False, what)
    for room in sorted(rooms | set(may)):
        gate.need(room in may, f"{room}/: is not in the table of rooms of docs/architecture.md")
        gate.need(room in rooms, f"{room}/: is in the table of rooms of docs/architecture.md, and there is no such room")
    for (room, other), path in sorted(found.items()):
        gate.need(other in may.get(room, ()), f"{path}: {room}/ may not include {other}/ (docs/architecture.md, \"Rooms\")")
    for room, others in may.items():
        for other in sorted(others):
            gate.need((room, other) in found, f"docs/architecture.md: {room}/ may include {other}/, and no file does")
    for path in paths:
        if path.startswith(("plugin/", "virsh-ext/")) and path.endswith((".c", ".h")):
            named = sorted(set(ROW_OR_PASS.findall(read(path))))
            gate.need(not named, f"{path}: names {' '.join(named)}; a flag of the row or the pass says what the host has to know")
    way = circle({room: {o for r, o in found if r == room} for room in rooms})
    gate.need(not way, f"rooms include one another: {' -> '.join(way)}")
    check_headers(gate, paths, read)


def check_headers(gate, paths, read):
    ours = {}
    for path in paths:
        if path.startswith(TREES) and path.endswith(".h"):
            lines = read(path).count("\n")
            gate.need(lines <= HEADER_LINES or path in LONG, f"{path}: a header of {lines} lines")
            if path not in BESIDE:
                ours.setdefault(os.path.dirname(path), []).append(path)
    for room, headers in ours.items():
        gate.need(len(headers) == 1, f"{room}/: several headers ({', '.join(headers)})")
    for path in sorted(set(BESIDE) | set(LONG)):
        gate.need(path in paths, f"tests/rooms.py: there is no {path}")
