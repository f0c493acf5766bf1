#!/usr/bin/env bash
# Stages 1 to 5, in order, on a folder of tables.
#
#     bash main.sh [DATA_DIR]        DATA_DIR: data, the competition's place, by default
#
# In the environment: SIZE (full or small), TOKENIZER (a BERT name or folder, or lexicon), USER_DICT (a file of
# words for Chinese queries), MODELS (what is blended: names of stages, logistic, neighbours), NPROC (training
# processes), SPLIT (testA or testB), SEED, PYTHON. A folder other than data gets sub-folders of its own name.
set -euo pipefail

size=${SIZE:-full} tokenizer=${TOKENIZER:-bert-large-uncased} split=${SPLIT:-testB} seed=${SEED:-2020}
case $size in full | small) ;; *) echo "error: SIZE is full or small, not $size" >&2 && exit 1 ;; esac
case $split in testA | testB) ;; *) echo "error: SPLIT is testA or testB, not $split" >&2 && exit 1 ;; esac
# As published two; at the small size a process for each GPU, or else each core, and no more than two.
devices=2
if [ "$size" = small ]; then
    devices=$(nvidia-smi --list-gpus 2>/dev/null | grep -c GPU) || devices=$(OMP_NUM_THREADS= nproc)
fi
processes=${NPROC:-$((devices < 2 ? devices : 2))}
case $processes in '' | 0* | *[!0-9]*) echo "error: NPROC is a number of processes, not $processes" >&2 && exit 1 ;; esac
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ ! -d "${1:-$root/data}" ]; then
    echo "error: ${1:-data} is no folder of tables; 'python -m kddcup.sample --out data/sample' makes a small one" >&2
    exit 1
fi
data=$(cd "${1:-$root/data}" && pwd)
sub=
[ "$data" = "$root/data" ] || sub=/$(basename "$data")
# Relative where it can be, so that no checkpoint has a path of this machine.
case $data in
"$root"/*) data=${data#"$root"/} from_stage=../${data#"$root"/} ;;
*) from_stage=$data ;;
esac
[ -d "$tokenizer" ] && tokenizer=$(cd "$tokenizer" && pwd)
user_dict=${USER_DICT:+$(realpath --relative-to="$root" "$USER_DICT")}
python=${PYTHON:-python}
# PyTorch then takes large pages: a step on a CPU spends less of its time on fresh memory.
export THP_MEM_ALLOC_ENABLE=${THP_MEM_ALLOC_ENABLE:-1}
[ -z "${PYTHON:-}" ] && [ -x "$root/.venv/bin/python" ] && python=$root/.venv/bin/python

run() {
    printf '+'
    printf ' %q' "$@"
    printf '\n'
    "$@"
}
enter() {
    run cd "$root/$1"
}
# Train a stage, in the folder of which this is called.
train() {
    if [ "$processes" = 1 ]; then
        run "$python" -u train.py "$@"
        return
    fi
    local port reports
    # Two runs on one machine have two ports.
    port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
    reports=$(mktemp)
    if ! KDDCUP_REPORTS=$reports run "$python" -u -m torch.distributed.launch --nproc_per_node="$processes" \
        --master_port="$port" train.py "$@" --devices $(seq 0 $((processes - 1))); then
        # What ended the first process that ended comes last, after all that the launcher says.
        head -n 1 "$reports" >&2
        rm "$reports"
        exit 1
    fi
    rm "$reports"
}
# Score valid and test with a stage, in the folder of which this is called.
validate() {
    run "$python" validation.py --data_dir "$from_stage" --checkpoints_dir "$checkpoints" --split "$split" \
        --valid_out_path "../$resources/valid_pred_$1.json" --test_out_path "../$resources/test_pred_$1.json" \
        "${@:2}"
}
encoder=../user_data$sub/image_encoder_large.pth
resources=external_resources$sub
checkpoints=./checkpoints$sub

enter .
for file in train/train.tsv valid/valid.tsv valid/valid_answer.json "$split/$split.tsv"; do
    if ! [ -f "$data/$file" ] && ! [ -f "$data/$file.gz" ]; then
        echo "error: $data/$file does not exist: all stages need it, so put it there first" >&2
        exit 1
    fi
done
blended=$("$python" -m kddcup.stages "$size" ${MODELS:-})
run "$python" preprocess.py --data_dir "$data" --size "$size" --tokenizer "$tokenizer" --seed "$seed" \
    --processes "$processes" ${user_dict:+--user_dict "$user_dict"}
if [[ $blended = *baseline* ]]; then
    run "$python" -m kddcup.baseline --data_dir "$data" --resources_dir "$resources" --split "$split"
fi

enter multilabel
train --size "$size" --data_dir "$from_stage" --checkpoints_dir "$checkpoints" --seed "$seed" --stop_at_use_epoch
validate multilabel
run "$python" export_model.py --checkpoints_dir "$checkpoints" --out_path "$encoder"

while read -r kind name flags <&3; do
    [ "$kind" = matcher ] || continue
    enter "$name"
    train --data_dir "$from_stage" --checkpoints_dir "$checkpoints" --encoder "$encoder" --seed "$seed" \
        --stop_at_use_epoch
    validate "$name" $flags
done 3<<<"$blended"

enter .
run "$python" ensemble.py --data_dir "$data" --resources_dir "$resources" --split "$split" ${MODELS:+--models $MODELS}
run "$python" -m kddcup.report --data_dir "$data" --resources_dir "$resources"
