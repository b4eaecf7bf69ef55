#!/bin/bash
# Try everything that needs a Modal account. Takes about 40 minutes, and costs at most 3 USD by its ceilings.
#   scripts/try_modal.sh [GPU]
# Needs MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, or python -m modal setup. Stops at the first failure, and names it; the
# volumes and apps that it made are deleted in every case.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
GPU=${1:-L4}
CLIPS=examples/german_accent/clips
WORK=$(mktemp -d)
export ASR_CLOUD_HOME="$WORK/rentals"
LIMITS=(--provider modal --gpu "$GPU" --yes --quiet --max_cost 0.75 --max_time 20m)

cloud() { "$PYTHON" -m asr_lightning cloud "$@"; }
step() { printf '\n== %s\n' "$*"; }
wrong() { printf 'WRONG: %s\n' "$*" >&2; exit 1; }
field() { cloud status "$1" --json | "$PYTHON" -c "import json, sys; print(json.load(sys.stdin).get('$2') or '')"; }
rentals() { ls -tr "$ASR_CLOUD_HOME/rentals" 2>/dev/null | sed -n 's/\.json$//p'; }
newest() { rentals | tail -1; }
modal_json() { "$PYTHON" -m modal "$@" --json; }

# Fail unless every volume of this script's rentals is gone and none of their apps runs.
nothing_left() {
    local volumes apps
    volumes=$(modal_json volume list)
    apps=$(modal_json app list)
    for id in $(rentals); do
        grep -q "\"asr-$id\"" <<<"$volumes" && wrong "the volume asr-$id is still in Modal's list"
        "$PYTHON" - "asr-$id" "$apps" <<'CHECK' || wrong "the app asr-$id still runs"
import json, sys
name, apps = sys.argv[1], json.loads(sys.argv[2])
sys.exit(any(app["description"] == name and "stopped" not in app["state"] for app in apps))
CHECK
    done
    echo "no volume and no running app of ours in Modal's lists"
}

# Wait until a rental trains, which its log shows.
trains() {
    for _ in $(seq 240); do
        cloud logs "$1" 2>/dev/null | grep . >/dev/null && return
        sleep 5
    done
    wrong "$1 did not begin to train within 20 minutes"
}

finish() {
    local status=$?
    [ "$status" = 0 ] || echo "ended with status $status"
    cloud gc || true
    for id in $(rentals); do cloud gc "$id" >/dev/null 2>&1 || true; done
    rm -rf "$WORK"
    exit "$status"
}
trap finish EXIT

step "the Modal account"
"$PYTHON" -m modal token info || true

step "1 a whole rental: upload the data, train, download the model, delete the data"
cloud run "$CLIPS" --model whisper-tiny.en --epochs 2 "${LIMITS[@]}" -o "$WORK/one"
for file in model.tar.gz report.html report.json trainer.log; do
    [ -s "$WORK/one/$file" ] || wrong "no $file in the result"
done
tar -tzf "$WORK/one/model.tar.gz"
nothing_left

step "2 detached: status, logs and cancel from another shell"
cloud run "$CLIPS" --model whisper-tiny.en --epochs 50 "${LIMITS[@]}" -o "$WORK/two" --detach
two=$(newest)
[ -n "$(field "$two" call)" ] || wrong "no id of the call in the record"
trains "$two"
cloud status "$two"
cloud cancel "$two"
nothing_left

step "3 a killed client: the next command deletes what it left behind"
"$PYTHON" -m asr_lightning cloud run "$CLIPS" --model whisper-tiny.en --epochs 50 "${LIMITS[@]}" -o "$WORK/three" &
client=$!
sleep 5
three=$(newest)
trains "$three"
kill -9 "$client"
wait "$client" || true
cloud gc
nothing_left

step "4 a container that is taken away: the same call continues from its checkpoint"
cloud run "$CLIPS" --model whisper-tiny.en --epochs 50 "${LIMITS[@]}" -o "$WORK/four" --detach
four=$(newest)
trains "$four"
sleep 30
app=$(modal_json app list | "$PYTHON" -c "
import json, sys
print(next(app['app_id'] for app in json.load(sys.stdin) if app['description'] == 'asr-$four'))")
container=$(modal_json container list --app-id "$app" | "$PYTHON" -c "
import json, sys
print(next(container['container_id'] for container in json.load(sys.stdin)))")
"$PYTHON" -m modal container stop --yes "$container"
cloud download "$four"
[ -s "$WORK/four/model.tar.gz" ] || wrong "no model after the container was stopped"
grep -i -m3 'resum\|checkpoint' "$WORK/four/trainer.log" || echo "LOOK: the log names no checkpoint"
nothing_left

step "5 the provider's own test against Modal"
"$PYTHON" -m pytest -q tests/cloud/test_modal_provider.py -k account_has_volumes

printf '\neverything works\n'
