#!/usr/bin/env bash
# `peptalk download` against nginx over TLS: tests/golden/download_nginx.sh target/debug/peptalk /usr/sbin/nginx
# Ranges, a redirect, a server without ranges, a mirror, a killed run, a changed file, a certificate that nobody knows.
# What came is compared by cmp, and the requests by nginx's own log.
set -euo pipefail
peptalk=$(realpath "$1")
nginx=$(realpath "$2")
place=$(mktemp -d)
chmod 755 "$place"
cd "$place"
trap '"$nginx" -p "$place/" -c nginx.conf -s stop; rm -rf "$place"' EXIT

openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority 2>/dev/null
openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost 2>/dev/null
printf 'subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE' >server.ext
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile server.ext 2>/dev/null
mkdir www tmp
head -c 67108864 /dev/urandom >www/a
(cd www && md5sum a >md5sums)
cat >nginx.conf <<END
pid nginx.pid; error_log error.log; events {}
http {
  log_format f '\$status \$request_uri \$body_bytes_sent \$http_range \$http_if_range';
  access_log access.log f;
  client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
  server {
    listen 127.0.0.1:8443 ssl; ssl_certificate server.pem; ssl_certificate_key server.key; root www;
    location /moved/ { rewrite ^/moved/(.*)$ https://localhost:8443/\$1 redirect; }
    location /whole/ { alias $place/www/; max_ranges 0; }
    location /slow/ { alias $place/www/; limit_rate 2m; }
    location /down/ { return 404; }
  }
}
END
"$nginx" -p "$place/" -c nginx.conf
export SSL_CERT_FILE=$place/ca.pem SSL_CERT_DIR=$place/www NO_PROXY=localhost PEPTALK_LOG=warn

# source FOLDER MORE: a registry with one file
source_at() {
    cat <<END
[[mirror]]
of = "https://localhost:8443/down/"
at = ["https://localhost:8443/"]
[[source]]
name = "a"
kind = "obo"
about = ""
licence = "none"
citation = ""
page = "https://localhost:8443/"
[[source.file]]
path = "a"
url = "https://localhost:8443/$1a"
$2
END
}
fetch() { "$peptalk" download a --registry registry.toml --out "$1"; }
check() {
    cmp "$1/a" www/a
    echo "ok: $2"
}
# killed FOLDER: begun, and killed once it has noted how far it has come
killed() {
    "$peptalk" download a --registry registry.toml --out "$1" >/dev/null & local pid=$!
    for _ in $(seq 300); do
        if [ -e "$1/a.part.json" ]; then break; else sleep 0.1; fi
    done
    kill -9 $pid
    wait $pid 2>/dev/null || true
    [ ! -e "$1/a" ]
}

source_at "" "checksums = \"md5sums\"" >registry.toml
fetch ranges >/dev/null
check ranges "ranges ($(grep -c '^206 /a ' access.log) of them), MD5 of the server's list"
source_at moved/ "sha256 = \"$(sha256sum www/a | cut -d' ' -f1)\"" >registry.toml
fetch moved >/dev/null
check moved "redirect, SHA-256"
source_at whole/ "" >registry.toml
fetch whole >/dev/null
check whole "no ranges ($(grep -c '^200 /whole/a ' access.log) answer)"
source_at down/ "" >registry.toml
fetch mirror >/dev/null
check mirror "mirror after 404"

source_at slow/ "" >registry.toml
killed killed
sleep 1
: >access.log
fetch killed >/dev/null
check killed "killed and gone on, $(awk '/^206/ { n += $3 } END { print 67108864 - n }' access.log) bytes not fetched again"

killed changed
head -c 30000000 /dev/urandom >www/a
fetch changed 2>&1 >/dev/null | grep -q "beginning anew"
check changed "changed on the server, begun anew"

openssl req -x509 -newkey rsa:2048 -nodes -keyout /dev/null -out stranger.pem -days 2 -subj /CN=stranger 2>/dev/null
if SSL_CERT_FILE=$place/stranger.pem fetch stranger 2>error >/dev/null; then exit 1; fi
grep -q "no connection (invalid peer certificate" error
echo "ok: a certificate that nobody knows is refused"
