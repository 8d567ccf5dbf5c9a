"""What a training run is made of; the loop is `digan/train.py`."""
