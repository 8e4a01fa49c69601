#!/bin/bash
# One run on two machines of eight GPUs under SLURM: sbatch examples/slurm.sh
#
# Every machine must see the run folder, the models and the embeddings under the same paths. Submit it
# again to go on from the newest checkpoint, which an allocation that ends leaves.

#SBATCH --job-name=flowbp
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=12:00:00
# Ten minutes before the end, so that a step can be finished and saved.
#SBATCH --signal=TERM@600

set -eu
FOLDER=runs/bridge
FILES="presets/sd35_medium.yaml presets/sd35_medium/bridge.yaml my.yaml"

# Where NCCL picks the wrong network, name the right one: export NCCL_SOCKET_IFNAME=eth0
export OMP_NUM_THREADS=8

HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
RESUME=""
if [ -e "$FOLDER/configuration.yaml" ]; then RESUME=--resume; fi

srun torchrun \
    --nnodes "$SLURM_NNODES" --nproc-per-node 8 \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD:29500" --rdzv-id "$SLURM_JOB_ID" \
    -m flowbp.run $FILES "run.folder=$FOLDER" checkpoints.every=20 checkpoints.keep=2 $RESUME
