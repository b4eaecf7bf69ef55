#!/bin/sh
# Train once over two network namespaces that stand for two hosts, joined by a virtual cable.
#   sudo scripts/two_hosts.sh ddp|fsdp DATA RUN_DIR [options of fit]
# Needs Linux, root and `ip`. $PYTHON is the interpreter.
set -eu
strategy=$1 data=$2 run_dir=$3
shift 3
ip netns add asr-a
trap 'ip netns del asr-a; ip netns del asr-b' EXIT
ip netns add asr-b
ip link add asr-veth netns asr-a type veth peer name asr-veth netns asr-b
for host in a:10.77.0.1 b:10.77.0.2; do
  ip -n "asr-${host%:*}" addr add "${host#*:}/24" dev asr-veth
  ip -n "asr-${host%:*}" link set lo up
  ip -n "asr-${host%:*}" link set asr-veth up
done

host() {  # name, rank, options: runs the command that a user would type on each host
  name=$1 rank=$2
  shift 2
  ip netns exec "asr-$name" env GLOO_SOCKET_IFNAME=asr-veth \
    "${PYTHON:-python}" -m torch.distributed.run --nnodes 2 --nproc_per_node 1 --node_rank "$rank" \
    --master_addr 10.77.0.1 --master_port 29500 \
    -m asr_lightning fit --data.audio_dir "$data" --run_dir "$run_dir" \
    --trainer.num_nodes 2 --trainer.devices 1 --trainer.accelerator cpu --trainer.strategy "$strategy" "$@"
}

host b 1 "$@" > "$run_dir-b.log" 2>&1 &
host a 0 "$@" && wait $!
