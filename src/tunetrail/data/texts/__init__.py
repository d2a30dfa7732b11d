"""What texts are made of: encoding, language, markup, prose, sentences. Knows no rows."""
