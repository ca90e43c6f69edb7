#!/bin/bash
# Before, on a machine with network:
#   bids_qsm /data /out participant --dry-run     (validates the dataset, once for all tasks)
#   bids_qsm fetch MNI152NLin2009cAsym CIT168     (where --output-spaces or --atlas name these)
# qsub -v BIDS=/data,OUT=/out hpc/pbs.sh
# One task again: qsub -J 3-4:2 -v BIDS=/data,OUT=/out hpc/pbs.sh   (PBS Pro has no arrays of one)
#PBS -N bids_qsm
#PBS -J 1-20
#PBS -l select=1:ncpus=4:mem=16gb
#PBS -l walltime=08:00:00
#PBS -V
#PBS -j oe
# Torque: "#PBS -t 1-20", "#PBS -l nodes=1:ppn=4,mem=16gb", and PBS_ARRAYID below.
# PBS does not tell the number of tasks, so it stands here.
TASKS=20

cd "$PBS_O_WORKDIR" || exit
bids_qsm "$BIDS" "$OUT" participant --array-task "$PBS_ARRAY_INDEX/$TASKS" --skip-bids-validation --nprocs 4 --mem 15G

# The group level after them, where qsub said JOB[].server (Torque: -W depend=afteranyarray:JOB[]):
# echo "bids_qsm /data /out group --nprocs 4 --mem 15G" | qsub -V -N bids_qsm_group -j oe \
#   -l select=1:ncpus=4:mem=16gb -l walltime=02:00:00 -W "depend=afterany:JOB[]"
