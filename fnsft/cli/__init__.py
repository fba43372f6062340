"""``fnsft <stage>``: one small module a stage, imported only when its stage is named."""
