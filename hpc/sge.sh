#!/bin/bash
# Before, on a machine with network:
#   bids_qsm /data /out participant --dry-run     (validates the dataset, once for all tasks)
#   bids_qsm fetch MNI152NLin2009cAsym CIT168     (where --output-spaces or --atlas name these)
# qsub hpc/sge.sh /data /out             (names of parallel environments and of memory are the site's)
# One task again: qsub -t 3 hpc/sge.sh /data /out
#$ -N bids_qsm
#$ -t 1-20
#$ -pe smp 4
#$ -l h_vmem=4G
#$ -l h_rt=08:00:00
#$ -cwd
#$ -V
#$ -j y
# The number of tasks stands here too, so that one can be submitted again alone.
TASKS=20

# Grid Engine tells the CPUs alone: memory is four times h_vmem, less a little for the shell
bids_qsm "$1" "$2" participant --array-task "$SGE_TASK_ID/$TASKS" --skip-bids-validation --nprocs "$NSLOTS" --mem 15G

# The group level after them:
# qsub -N bids_qsm_group -hold_jid bids_qsm -pe smp 4 -l h_vmem=4G -l h_rt=02:00:00 -cwd -V -j y \
#   -b y bids_qsm /data /out group --nprocs 4 --mem 15G
