"""List prices of AWS that this product tells people, us-east-1, December 2026, before any discount.

Sources: aws.amazon.com/s3/pricing, aws.amazon.com/kms/pricing.
"""

S3_GB_MONTH = 0.023  # dollars for a gigabyte of S3 Standard and month
KMS_KEY_MONTH = 1.0  # dollars for a key and month
AS_OF = "us-east-1, December 2026"
