"""The text of a starter recipe, which `init` fills in."""

STARTER = """\
# Written by: modelwright init {source}
# Check it with: modelwright plan {file}      then: modelwright run {file}
task: {task}
data:
  # {rows:,} {what}
  source: {quoted}
{own}  # valid: 0.1                # share of train held out to choose by
  # test: 0.2                 # share held out to judge by, where the data brings no test part
budget:
  train_minutes: {minutes}
  # memory_gb: 4
goals:                        # judged on the test part and the target runtime
{goal}
  latency_p99_ms: "<= 5"
  size_mb: "<= 5"
target: {{runtime: onnxruntime, device: cpu, threads: 1, batch_size: 1}}
model: auto                   # or {{family: cnn, size: base}}; families: cnn, rnn, transformer
train:
  seed: 0{weights}
  # augment: []               # steps of this task that leave what is right as it is: docs/reference
compress: auto                # or none, or a list such as [{{prune: {{ratio: 0.25}}}}, quantize]
"""

OWN_KEYS = {
    "series": "  # window: 336               # steps looked back at\n",
    "items": "  # interactions: {user: 0, item: 1, time: 3, names: null}  # columns; a file of "
    "titles\n",
    "ratings": "  # interactions: {user: 0, item: 1, rating: 2, names: null}  # columns; a file of "
    "titles\n",
    "observation": "  # window: 1                 # latest observations that are looked at\n"
    "  # episodes: 100             # of valid and of test\n",
    "pairs": "  # tokens: {vocab_size: 6000}  # pieces of words, of both languages together\n",
    "stream": "  # window: 128               # tokens looked back at\n"
    "  # tokens: {unit: characters}  # or bytes, or bpe with a vocab_size\n",
}

# of classes of very different sizes
WEIGHTS = "\n  class_weights: balanced     # each class counts alike, however few rows it has"
GOALS = {
    "accuracy": '  accuracy: ">= 0.9"          # edit: what you need; or "drop <= 0.5 pt" against '
    "the uncompressed",
    "f1_macro": '  f1_macro: ">= 0.8"          # edit: the mean over classes of F1; or '
    '"drop <= 0.5 pt"',
    "f1": '  f1: ">= 0.9"                # edit: what you need; or "drop <= 0.5 pt"',
    "ap50": '  ap50: ">= 0.7"              # edit: what you need; or "drop <= 0.5 pt"',
    "ndcg_at_10": '  ndcg_at_10: ">= 0.05"      # edit: what you need; or "drop <= 0.5 pt"',
    "wer": '  wer: "<= 0.1"               # edit: word errors for each true word',
    "recall_at_10": '  recall_at_10: ">= 0.5"     # edit: what you need; or "drop <= 0.5 pt"',
    "mse": '  mse: "<= 0.5"               # edit: in units of each series\' variance on train',
    "rmse": '  rmse: "<= 0.95"             # edit: in the units of the ratings',
    "mean_return": '  mean_return: ">= 0"           # edit: the mean sum of rewards of an episode',
    "bleu": '  bleu: ">= 25"                # edit: from 0 to 100, by sacreBLEU',
    "nats_per_char": '  nats_per_char: "<= 1.8"     # edit: surprise at each character, in nats',
}
