"""Any checkpoint -> model, tokenizer and the axes that it was trained on."""
