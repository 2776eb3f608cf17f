"""A bundle that is elsewhere: a registered model of MLflow, or an archive.

TAGGER_BUNDLE=models:/name@alias, models:/name/7           MlflowModel
TAGGER_BUNDLE=https://…, s3://…  (.tar.gz or .zip)         Archive

source -> scratch folder -> verified -> cache/<address>/<revision>/ -> loaded -> current

files <- sources <- cache  (imports)
"""

from serving.remote_bundle.cache import RemoteBundle, remote_bundle
from serving.remote_bundle.files import FetchError

__all__ = ["FetchError", "RemoteBundle", "remote_bundle"]
