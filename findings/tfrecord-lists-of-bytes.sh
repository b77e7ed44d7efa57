#!/usr/bin/env bash
# tfrecord: a list of one string comes back as the string, a longer one without its trailing zeros
#
# Packages   tfrecord 1.14.6, numpy 2.4.6, protobuf 7.36.2, crc32c 2.9.post0
#
# Expected   A bytes_list is a list: its length is the number of its values, whatever that is, and
#            each value has the bytes that were written. So it is with int64_list and float_list.
# Seen       One value comes back as bytes, two or more (or none) as a NumPy array of type S, which
#            drops the zero bytes at the end of each value. A user with the topic "music" has
#            five topics by len(), and iterating gives the numbers of letters; one with "music" and
#            "art" has two. Two packed float32 vectors (1, 2) and (3, 0) return as 8 and 4 bytes,
#            the second shorter by a coordinate; packed as a single value they are whole. The file
#            is right: protobuf reads from it what was written.
# Matters    Histories, topics and tags of users are lists of varying length in tf.Example, some of
#            them of length one. A length or bag-of-topics feature is then plausible and wrong for
#            just these users, and packed ids or vectors lose their last bytes where these are
#            zero. Parse the records of tfrecord_iterator with Example instead (each as it comes:
#            all records are views of one buffer).
# Pointer    process_feature in tfrecord/reader.py; vahidk/tfrecord issue 102 asked for the list
#            where the first value alone was returned.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --no-compile \
    --no-binary tfrecord tfrecord==1.14.6 numpy==2.4.6 protobuf==7.36.2 crc32c==2.9.post0

cat > "$work/show.py" <<'PY'
import sys
from importlib.metadata import version

import numpy as np
from tfrecord import example_pb2, reader, writer

print(*(f"{name} {version(name)}" for name in ("tfrecord", "numpy", "protobuf")))
path = sys.argv[1]
first, second = (np.array(vector, "<f4").tobytes() for vector in ([1, 2], [3, 0]))
lists = [[b"music"], [b"music", b"art"], [], [first], [first, second]]
records = writer.TFRecordWriter(path)
for values in lists:
    records.write({"topics": (values, "byte"), "days": ([len(values)], "int")})
records.close()

seen = []
for row, values in zip(reader.tfrecord_loader(path, None), lists, strict=True):
    topics = row["topics"]
    print(f"wrote {values}\n read {topics!r}, {len(topics)} by len(), {row['days']!r}")
    assert isinstance(row["days"], np.ndarray) and row["days"].tolist() == [len(values)]
    seen.append(topics)
assert seen[0] == b"music" and len(seen[0]) == 5 and list(seen[0])[0] == ord("m")
assert seen[1].tolist() == lists[1] and len(seen[2]) == 0 and seen[3] == first
assert [len(value) for value in lists[4]] == [8, 8]
assert [len(value) for value in seen[4].tolist()] == [8, 4] and seen[4][1] == second[:4]

views, kept = [], []
for record in reader.tfrecord_iterator(path):
    views.append(record)
    kept.append(bytes(record))
parsed = [example_pb2.Example.FromString(record) for record in kept]
assert [list(p.features.feature["topics"].bytes_list.value) for p in parsed] == lists
assert [bytes(view) for view in views] != kept and bytes(views[-1]) == kept[-1]
print("protobuf reads what was written")
PY
"$work/venv/bin/python" "$work/show.py" "$work/lists.tfrecord" 2> "$work/log" \
    || { cat "$work/log" >&2; exit 1; }
echo "as described"
