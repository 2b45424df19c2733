#!/bin/sh
# The fifth search of docs/searches.md and the tests of docs/confirmation.md, seed by
# seed; started again, it resumes where it stopped. STAGE: search, or ased, ravdess,
# emodb with the systems to train. FOLDS and SEEDS: such as 4,5 and 1; default: all, and
# three.
#
# > RAVDESS=… ASED=… EMODB=… ESC=… ROOMS=… SPEECH=… ENCODER=… \
#     sh examples/unlabelled.sh STAGE [SYSTEMS]
#
# JOBS: runs at a time; on a GPU all of a stage side by side, with SEEDS=1,2,3.
set -eu
cd "$(dirname "$0")/../recipes/IEMOCAP/mlkd"
stage=$1 systems=${2:-teacher,mlkd,semi,others,both,masked}
examples=../../../examples settings= folds=all babble=$RAVDESS train_only=False
case $stage in
search) train_only=True folds=1,2 babble=$EMODB data=$RAVDESS ;;
ravdess) babble=$EMODB data=$RAVDESS ;;
ased) settings=,$examples/ased.yaml data=$ASED ;;
emodb) settings=,$examples/emodb.yaml data=$EMODB ;;
*) echo "STAGE: search, ased, ravdess or emodb" && exit 2 ;;
esac
for seed in ${SEEDS:-1 2 3}; do
    OMP_NUM_THREADS=1 python cross_validate.py hparams/mlkd.yaml \
        --settings="[$examples/ravdess.yaml$settings, $examples/unlabelled_search.yaml]" \
        --systems="$systems" --train_only=$train_only \
        --folds="${FOLDS:-$folds}" --seeds="$seed" --jobs="${JOBS:-2}" \
        --data_folder="$data" --noise_folder="$ESC" --babble_folder="$babble" \
        --unseen_noise="{rooms: $ROOMS}" --unlabelled_folder="$SPEECH" \
        --wav2vec2_hub="$ENCODER" --num_workers="${WORKERS:-0}" \
        --results_folder="results/$stage"
done
