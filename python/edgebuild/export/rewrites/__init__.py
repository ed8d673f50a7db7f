"""What stock exporters miss: a TorchScript interpreter for torch.export, and operators lowered to plain ones."""
