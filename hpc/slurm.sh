#!/bin/bash
# Before, on a machine with network:
#   bids_qsm /data /out participant --dry-run     (validates the dataset, once for all tasks)
#   bids_qsm fetch MNI152NLin2009cAsym CIT168     (where --output-spaces or --atlas name these)
#   mkdir -p logs                                 (SLURM does not)
# sbatch hpc/slurm.sh /data /out
# One task again: sbatch --array=3 hpc/slurm.sh /data /out
#SBATCH --job-name=bids_qsm
#SBATCH --array=1-20
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=08:00:00
#SBATCH --output=logs/%x-%A_%a.log
#SBATCH --open-mode=append
# The number of tasks stands here too, so that one can be submitted again alone.
TASKS=20

bids_qsm "$1" "$2" participant --array-task "$SLURM_ARRAY_TASK_ID/$TASKS" --skip-bids-validation

# In an Apptainer image; without --cleanenv it sees what SLURM granted:
# apptainer run --bind "$1:$1:ro" --bind "$2" bids_qsm.sif "$1" "$2" participant \
#   --array-task "$SLURM_ARRAY_TASK_ID/$TASKS" --skip-bids-validation

# The group level after them, where sbatch said JOB:
# sbatch --dependency=afterany:JOB --cpus-per-task=4 --mem=16G --time=02:00:00 --wrap="bids_qsm /data /out group"
