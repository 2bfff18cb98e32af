"""`make_bucket.py NAME`: makes the store's bucket where there is none."""

import sys

import boto3
from botocore.exceptions import ClientError

try:
    boto3.client("s3").create_bucket(Bucket=sys.argv[1])
except ClientError as error:
    if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
        raise
