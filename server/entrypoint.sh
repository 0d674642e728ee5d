#!/bin/sh
# The supercheck command, with secrets from files: the value of NAME is in the file that NAME_FILE names.
set -eu
for name in SUPERCHECK_TOKEN SUPERCHECK_GITHUB_TOKEN PGPASSWORD AWS_SECRET_ACCESS_KEY; do
    eval "file=\${${name}_FILE:-}"
    if [ -n "$file" ]; then
        value=$(cat "$file")
        export "$name=$value"
    fi
done
exec supercheck "$@"
