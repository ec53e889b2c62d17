// verify PEM ALG TOKEN: the claims of a token, as golang-jwt reads it
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"

	"github.com/golang-jwt/jwt/v5"
)

func main() {
	pem, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	token, err := jwt.Parse(os.Args[3], func(*jwt.Token) (interface{}, error) {
		switch os.Args[2] {
		case "ES256":
			return jwt.ParseECPublicKeyFromPEM(pem)
		case "EdDSA":
			return jwt.ParseEdPublicKeyFromPEM(pem)
		default:
			return jwt.ParseRSAPublicKeyFromPEM(pem)
		}
	}, jwt.WithValidMethods([]string{os.Args[2]}))
	if err != nil {
		log.Fatal(err)
	}
	claims, err := json.Marshal(token.Claims)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(claims))
}
