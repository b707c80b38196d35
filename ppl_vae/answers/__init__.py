"""The two kinds of answer, draws and log p(x), their labels, and draws made elsewhere."""
