"""From pictures to the competition's tables: what is listed, what is seen in the pictures, what is written.

No model of the stages is known here.
"""
