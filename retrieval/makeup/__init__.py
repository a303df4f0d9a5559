"""From make-up videos to what YouMakeup's reader reads; needs PyAV (extra `video`).

frames    the pictures at the end of each step
derived   the files that the published baseline derives from them, with its modifications
features  vectors of the pictures, for models that read no pixels
"""
