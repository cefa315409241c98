import pytest, json
from transformers import AutoModelForCausalLM, AutoTokenizer
@pytest.mark.parametrize("a", ["llama","qwen2","qwen3","gpt2"])
def test_m(tiny_model_folder, a):
    f = tiny_model_folder(a)
    m = AutoModelForCausalLM.from_pretrained(f); t = AutoTokenizer.from_pretrained(f)
    print(a, m.num_parameters(), len(t), t("add 1 é: <|end|>"), t.decode(t("add é: ").input_ids), t.chat_template)
def test_d(small_data):
    for k in ("jsonl","json","csv","parquet","saved"):
        for f in ("prompt_completion","text","messages"):
            if k=="csv" and f=="messages": continue
            print(small_data(k,f))
