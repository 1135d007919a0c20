"""A client of the shard API with Google's gRPC library, and with stubs that are generated from proto/consumer.proto.

`client.py specs ADDRESS TOKEN` lists and changes specs: shards 0 to 4 have a holder, 1 and 9 have failed.
`client.py stat ADDRESS TOKEN RECIPIENT SHARD OTHER LATER` waits until a process has worked. It prints what the test has
to do next, and reads the receipt of an event.
"""

import sys
import time

import consumer_pb2 as pb
import consumer_pb2_grpc
import grpc
from google.protobuf.duration_pb2 import Duration

SECONDS = 30
Change = pb.ApplyRequest.Change
mode, address, token = sys.argv[1:4]
shards = consumer_pb2_grpc.ShardStub(grpc.insecure_channel(address))
caller = (("authorization", f"Bearer {token}"), ("eventbox-who", "ana"), ("eventbox-why", "a test in Python"))


def call(method, request, metadata=caller, timeout=SECONDS):
    return method(request, metadata=metadata, timeout=timeout)


def refused(method, request, code, text="", **options):
    """Makes a call that must fail with a code, and a text that contains another one."""
    try:
        answer = call(method, request, **options)
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()} instead of {code}: {error.details()}"
        assert text in error.details(), f"{text!r} is not in {error.details()!r}"
    else:
        raise AssertionError(f"not refused: {request} got {answer}")


def invalid(method, request, text=""):
    refused(method, request, grpc.StatusCode.INVALID_ARGUMENT, text)


def equal(found, wanted):
    assert found == wanted, f"{found!r} instead of {wanted!r}"


def label(name, value, prefix=False):
    return pb.Label(name=name, value=value, prefix=prefix)


def listed(include=(), exclude=()):
    selector = pb.LabelSelector(include=pb.LabelSet(labels=include), exclude=pb.LabelSet(labels=exclude))
    answer = call(shards.List, pb.ListRequest(selector=selector))
    equal(answer.status, pb.OK)
    return answer.shards


def ids(include=(), exclude=()):
    return [shard.spec.id for shard in listed(include, exclude)]


def one(id):
    (shard,) = listed([label("id", id)])
    return shard


def revisions(id):
    shard = one(id)
    return shard.create_revision, shard.mod_revision


def spec(id, team="ramp", **fields):
    return pb.ShardSpec(id=id, labels=pb.LabelSet(labels=[label("team", team)]), **fields)


def upsert(revision, spec):
    return Change(expect_mod_revision=revision, upsert=spec)


def delete(revision, id):
    return Change(expect_mod_revision=revision, delete=id)


def applied(*changes):
    return call(shards.Apply, pb.ApplyRequest(changes=changes)).status


def unassigned(*of, **options):
    answer = call(shards.Unassign, pb.UnassignRequest(shards=of, **options))
    return answer.status, list(answer.shards)


def stat(id, read_through=(), **options):
    return call(shards.Stat, pb.StatRequest(shard=id, read_through=dict(read_through)), **options)


def access():
    """Every call needs the token."""
    requests = [
        (shards.Stat, pb.StatRequest(shard="007")),
        (shards.List, pb.ListRequest()),
        (shards.Apply, pb.ApplyRequest()),
        (shards.GetHints, pb.GetHintsRequest(shard="007")),
        (shards.Unassign, pb.UnassignRequest()),
    ]
    for method, request in requests:
        for value in [None, "", token, f"Bearer {token[:-1]}", f"Bearer {token}0", f"Basic {token}"]:
            metadata = [] if value is None else [("authorization", value)]
            refused(method, request, grpc.StatusCode.UNAUTHENTICATED, "authorization", metadata=metadata)


def numbers():
    """The numbers on the wire are those of the framework."""
    names = ["OK", "SHARD_NOT_FOUND", "NO_SHARD_PRIMARY", "NOT_SHARD_PRIMARY", "REVISION_CONFLICT", "SHARD_STOPPED"]
    equal(list(pb.Status.keys()), names)
    equal(list(pb.Status.values()), [0, 1, 2, 3, 4, 5])
    fields = {
        pb.StatRequest: {"header": 1, "shard": 2, "read_through": 3, "extension": 100},
        pb.StatResponse: {"status": 1, "header": 2, "read_through": 3, "publish_at": 4, "extension": 100},
        pb.ListRequest: {"selector": 1, "extension": 100},
        pb.ListResponse: {"status": 1, "header": 2, "shards": 3, "extension": 100},
        pb.ApplyRequest: {"changes": 1, "extension": 100},
        Change: {"expect_mod_revision": 1, "upsert": 2, "delete": 3, "primary_hints": 4},
        pb.ApplyResponse: {"status": 1, "header": 2, "extension": 100},
        pb.GetHintsRequest: {"shard": 1, "extension": 100},
        pb.GetHintsResponse: {"status": 1, "header": 2, "primary_hints": 3, "backup_hints": 4, "extension": 100},
        pb.UnassignRequest: {"shards": 1, "only_failed": 2, "dry_run": 3},
        pb.UnassignResponse: {"status": 1, "shards": 2},
    }
    for message, wanted in fields.items():
        equal({field.name: field.number for field in message.DESCRIPTOR.fields}, wanted)
    own = {"summary": 101, "generation": 102}
    listing = {"spec": 1, "mod_revision": 2, "route": 3, "status": 4, "create_revision": 5}
    equal({field.name: field.number for field in pb.ListResponse.Shard.DESCRIPTOR.fields}, listing | own)
    codes = {"IDLE": 0, "BACKFILL": 100, "STANDBY": 200, "PRIMARY": 300, "FAILED": 400}
    equal(dict(pb.ReplicaStatus.Code.items()), codes)


def selectors():
    every = [f"{number:03}" for number in range(256)]
    equal(ids(), every)
    equal(revisions("007"), (0, 0))
    teams = [upsert(0, spec("010", "gate")), upsert(0, spec("100", "grid")), upsert(0, spec("002"))]
    answer = call(shards.Apply, pb.ApplyRequest(changes=teams))
    equal((answer.status, answer.header.etcd.revision), (pb.OK, 1))
    for include, exclude, wanted in [
        ([label("team", "ramp")], [], ["002"]),
        ([label("team", "")], [], ["002", "010", "100"]),
        ([label("team", "gate"), label("team", "ramp")], [], ["002", "010"]),
        ([label("team", "g", prefix=True)], [], ["010", "100"]),
        ([label("team", "")], [label("team", "gate")], ["002", "100"]),
        ([label("team", "")], [label("id", "2"), label("team", "gr", prefix=True)], ["010"]),
        ([label("team", ""), label("id", "100"), label("id", "3")], [], ["100"]),
        ([label("id", "11"), label("id", "010"), label("id", "2")], [], ["002", "010", "011"]),
        ([label("id", "25", prefix=True)], [], ["250", "251", "252", "253", "254", "255"]),
        ([], [label("id", "0", prefix=True), label("id", "1", prefix=True)], every[200:]),
        ([label("size", "")], [], []),
    ]:
        equal(ids(include, exclude), wanted)
    for side in ["include", "exclude"]:
        selector = pb.LabelSelector(**{side: pb.LabelSet(labels=[label("", "x")])})
        invalid(shards.List, pb.ListRequest(selector=selector), "no name")


def changes():
    """Specs change at the expected revision, and a call changes all of its shards or none."""
    equal(revisions("002"), (1, 1))
    equal(applied(upsert(1, spec("002", "gate", disable=True, zone="eu-1"))), pb.OK)
    equal(revisions("002"), (1, 2))
    for wrong in [0, 1, 3]:
        equal(applied(upsert(0, spec("003")), upsert(wrong, spec("002"))), 4)
        equal(applied(upsert(0, spec("003")), delete(wrong or 1, "002")), 4)
    equal((revisions("003"), revisions("002")), ((0, 0), (1, 2)))
    equal(applied(upsert(-1, spec("2"))), pb.OK)
    equal(revisions("002"), (1, 3))

    before = one("002")
    equal(applied(upsert(before.mod_revision, before.spec)), pb.OK)
    after = one("002")
    equal((after.spec, after.create_revision, after.mod_revision), (before.spec, 1, 4))
    full = spec("002", "gate", disable=True, zone="eu-1")
    equal(applied(upsert(4, full)), pb.OK)
    equal(one("002").spec, full)

    equal(applied(delete(5, "002")), pb.OK)
    equal((revisions("002"), one("002").spec.zone, list(one("002").spec.labels.labels)), ((0, 0), "", []))
    equal(applied(delete(-1, "002")), pb.OK)
    equal(applied(delete(2, "002")), 4)


def invalid_changes():
    """What the library does not have is refused by its name, and never dropped."""
    second = Duration(seconds=1)
    fields = {
        "sources": [pb.ShardSpec.Source(journal="a/b")],
        "recovery_log_prefix": "x",
        "hint_prefix": "x",
        "hint_backups": 1,
        "max_txn_duration": second,
        "min_txn_duration": second,
        "hot_standbys": 1,
        "disable_wait_for_ack": True,
        "ring_buffer_size": 1,
        "read_channel_size": 1,
    }
    wrong = [(upsert(-1, spec("007", **{name: value})), f"{name} is set") for name, value in fields.items()]
    labels = [
        ([label("id", "8")], "id"),
        ([label("a", "1", prefix=True)], "prefix"),
        ([label("a", "1"), label("a", "2")], "two values"),
        ([label("a", "x" * 100_000)], "limit"),
    ]
    for set, text in labels:
        wrong.append((upsert(-1, pb.ShardSpec(id="007", labels=pb.LabelSet(labels=set))), text))
    for id in ["256", "-1", "0007", "x", "", "7 "]:
        wrong.append((upsert(-1, spec(id)), ""))
    wrong += [
        (Change(expect_mod_revision=-1), "exactly one"),
        (Change(expect_mod_revision=-1, upsert=spec("007"), delete="007"), "exactly one"),
        (Change(upsert=spec("007"), primary_hints=pb.FSMHints()), "primary_hints"),
        (delete(-1, "256"), "256"),
        (delete(0, "007"), "revision 0"),
        (upsert(-2, spec("007")), "-2"),
        (upsert(-1, spec("3")), "two changes"),
    ]
    for change, text in wrong:
        invalid(shards.Apply, pb.ApplyRequest(changes=[upsert(0, spec("003")), change]), text)
    equal((revisions("003"), revisions("007")), ((0, 0), (0, 0)))
    large = pb.ApplyRequest(extension=bytes(5 << 20))
    refused(shards.Apply, large, grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max")


def taking():
    """Shards are taken from their holders: a dry run says which, and `only_failed` leaves the others."""
    failed = one("009")
    equal((failed.summary.code, list(failed.summary.errors), failed.route.primary), (400, ["refused"], -1))
    held = one("000")
    equal((len(held.route.members), held.route.primary, held.status[0].code), (1, 0, 300))
    equal(unassigned("020", "021"), (pb.OK, []))
    equal(unassigned("9", "0", "001", dry_run=True), (pb.OK, ["000", "001", "009"]))
    equal(unassigned("000", "001", "009", dry_run=True, only_failed=True), (pb.OK, ["001", "009"]))
    equal(unassigned("000", "001", "009", only_failed=True), (pb.OK, ["001", "009"]))
    equal(unassigned("000", "001", "009", only_failed=True), (pb.OK, []))
    equal(unassigned("002", "256"), (pb.SHARD_NOT_FOUND, []))
    equal(unassigned("000", "001", "002"), (pb.OK, ["000", "002"]))
    equal((one("000").route.primary, one("003").route.primary, one("009").summary.code), (-1, 0, 0))


def absent():
    refused(shards.GetHints, pb.GetHintsRequest(shard="007"), grpc.StatusCode.UNIMPLEMENTED, "no recovery logs")
    for unknown in ["256", "x", ""]:
        equal(stat(unknown).status, pb.SHARD_NOT_FOUND)
    equal(stat("200").status, pb.NO_SHARD_PRIMARY)
    many = {f"counter/{key}": 1 for key in range(257)}
    for wrong in [{"no recipient": 1}, {"": 1}, many]:
        invalid(shards.Stat, pb.StatRequest(shard="007", read_through=wrong), "read_through")


def waits():
    recipient, shard, other, later = sys.argv[4:]
    until = time.monotonic() + SECONDS
    while any(listed.summary.code != pb.ReplicaStatus.PRIMARY for listed in call(shards.List, pb.ListRequest()).shards):
        assert time.monotonic() < until, "no process works on all shards"
        time.sleep(0.05)

    # The deadline of the caller ends a wait, and the server serves on.
    request = pb.StatRequest(shard=shard, read_through={recipient: 99})
    refused(shards.Stat, request, grpc.StatusCode.DEADLINE_EXCEEDED, timeout=0.2)

    def blocked(read_through, step):
        """Begins a call that waits. Another one answers meanwhile, which leaves out the recipient of another shard."""
        waiting = shards.Stat.future(
            pb.StatRequest(shard=shard, read_through=read_through), metadata=caller, timeout=SECONDS
        )
        equal(dict(stat(shard, {recipient: 0, other: 99}).read_through).keys(), {recipient})
        assert not waiting.done(), "it did not wait"
        print(step, flush=True)
        answer = waiting.result()
        equal(answer.status, pb.OK)
        assert answer.header.process_id.suffix and answer.header.etcd.revision > 0
        return answer

    answer = blocked({recipient: 1}, "emit")
    equal(dict(answer.read_through), {recipient: 1})
    equal(dict(answer.publish_at), {})
    receipt = sys.stdin.readline().strip()
    answer = stat(shard, {receipt: 0})
    equal((dict(answer.read_through), dict(answer.publish_at)), ({receipt: 1}, {receipt: 1}))
    answer = blocked({later: 0}, "fire")
    equal((dict(answer.read_through), dict(answer.publish_at)), ({later: 2}, {later: 2}))


if mode == "specs":
    steps = [numbers, access, selectors, changes, invalid_changes, taking, absent]
else:
    steps = [waits]
for step in steps:
    step()
print("done", flush=True)
