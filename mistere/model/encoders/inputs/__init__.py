"""How inputs of encoders are made where no library of the encoder is at hand: tokens, and spectra inside a graph."""
