#!/bin/bash
# Try everything that needs a cloud that SkyPilot may use. Takes about 30 minutes, and costs at most 2 USD by its ceilings.
#   scripts/try_skypilot.sh [GPU]
# Needs make install-skypilot, and a cloud that .venv-skypilot/bin/sky check finds enabled, such as RunPod:
#   .venv-skypilot/bin/python -m pip install runpod && .venv-skypilot/bin/runpod config
# Stops at the first failure, and names it; the machines that it started are ended in every case.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv-skypilot/bin/python}
SKY=$(dirname "$PYTHON")/sky
GPU=${1:-L4}
CLIPS=examples/german_accent/clips
WORK=$(mktemp -d)
export ASR_CLOUD_HOME="$WORK/rentals"
LIMITS=(--provider skypilot --gpu "$GPU" --yes --quiet --max_cost 1 --max_time 20m)

cloud() { "$PYTHON" -m asr_lightning cloud "$@"; }
step() { printf '\n== %s\n' "$*"; }
wrong() { printf 'WRONG: %s\n' "$*" >&2; exit 1; }
rentals() { ls -tr "$ASR_CLOUD_HOME/rentals" 2>/dev/null | sed -n 's/\.json$//p'; }
newest() { rentals | tail -1; }

# Fail if a machine of this script's rentals is in SkyPilot's list, which is refreshed from the clouds.
nothing_left() {
    local machines
    machines=$("$SKY" status --refresh)
    for id in $(rentals); do
        grep -q "asr-$id" <<<"$machines" && wrong "the machine asr-$id is still there: run $SKY down asr-$id"
    done
    echo "no machine of ours in SkyPilot's list; look at the cloud's own page as well"
}

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
    for id in $(rentals); do cloud gc "$id" >/dev/null 2>&1 || "$SKY" down --yes "asr-$id" || true; done
    rm -rf "$WORK"
    exit "$status"
}
trap finish EXIT

step "the enabled clouds"
"$SKY" check

step "1 a whole rental: upload the data, train, download the model, end the machine"
cloud run "$CLIPS" --model whisper-tiny.en --epochs 2 "${LIMITS[@]}" -o "$WORK/one"
for file in model.tar.gz report.html report.json trainer.log; do
    [ -s "$WORK/one/$file" ] || wrong "no $file in the result"
done
nothing_left

step "2 detached: status, logs and cancel from another shell"
cloud run "$CLIPS" --model whisper-tiny.en --epochs 50 "${LIMITS[@]}" -o "$WORK/two" --detach
two=$(newest)
trains "$two"
cloud status "$two"
cloud cancel "$two"
nothing_left

step "3 a client that is killed while its machine starts: the next command ends the machine"
"$PYTHON" -m asr_lightning cloud run "$CLIPS" --model whisper-tiny.en --epochs 2 "${LIMITS[@]}" -o "$WORK/three" &
client=$!
sleep 45
kill -9 "$client"
wait "$client" || true
cloud gc
nothing_left

printf '\neverything works\n'
