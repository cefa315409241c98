"""What of a finished run must not depend on kills, engines or the folder it lies in."""


def adapter_bytes(folder):
    return (folder.adapter / "adapter_model.safetensors").read_bytes()


def eval_records(folder):
    """(round, figures) of each line of metrics.jsonl: what must not depend on kills or engines."""
    return [
        (line["round"], line.get("eval"), line.get("client_eval"), line["revision"])
        for line in folder.read_metrics()
    ]
